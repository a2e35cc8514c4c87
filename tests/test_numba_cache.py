from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from fastcifar.numba_cache import compile_cached


def _double(number: int) -> int:
    return 2 * number


def test_a_function_comes_from_numbas_cache() -> None:
    for _ in range(2):
        compiled = compile_cached(_double, numba.njit, numba.int64(numba.int64))
    assert compiled.stats.cache_hits
    assert compiled(4) == 8


def test_without_a_folder_for_the_cache_functions_are_compiled() -> None:
    def without_folder(*signature: object, cache: bool = False, **options: Any) -> Callable[..., Any]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(*signature, **options)

    assert compile_cached(_double, without_folder, numba.int64(numba.int64))(4) == 8
