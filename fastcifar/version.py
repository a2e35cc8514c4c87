"""The version, which pyproject.toml and environment.json take from here."""

__version__ = "0.2.0"
