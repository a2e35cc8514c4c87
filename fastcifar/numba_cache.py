"""Compile functions with numba, or take them from its cache on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compile_cached(function: Callable[..., Any], decorator: Callable[..., Any], *signature: Any, **options: Any) -> Any:
    """Return the function as `decorator`, `numba.njit` or `numba.cfunc`, compiles it with a signature and options.

    Numba's cache does not distinguish options: two functions, or two closures, are needed for two sets of options.
    """
    try:
        return decorator(*signature, cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder for its cache
        return decorator(*signature, **options)(function)
