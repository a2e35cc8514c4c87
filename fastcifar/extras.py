"""Packages that belong to an extra, such as fastcifar[sweep], and are imported where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastcifar.errors import ConfigError


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Say how to install the packages of an extra if one that `purpose` needs cannot be imported in the block.

    Raises:
        ConfigError: a package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs a package that is not installed ({error}): pip install 'fastcifar[{extra}]'"
        ) from error
