"""The documentation site, and the code that builds parts of it."""
