"""The version, which pyproject.toml and environment.json take from here, and that of FFCV."""

__version__ = "0.2.0"
FFCV_VERSION = "1.0.2"
"""The version of FFCV whose internals `data/ffcv_compat.py` uses."""
