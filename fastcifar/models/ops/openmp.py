"""Compile functions with numba, and run them in torch's own OpenMP threads.

Another thread pool would wait for cores on which torch's threads spin after each convolution.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from fastcifar.numba_cache import compile_cached

POINTER: Any = types.CPointer
"""numba's pointer type, which has no annotations."""


def pointer_to(element: Any) -> Any:
    """Return an intrinsic that converts an address to a pointer to elements of a numba type."""

    def to_pointer(_: Any, address: Any) -> Any:
        return POINTER(element)(types.int64), _generate_inttoptr

    return intrinsic(to_pointer)


def _generate_inttoptr(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


def _fetch_and_add(_: Any, counter: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], context.get_constant(types.int64, 1), "monotonic")

    return types.int64(POINTER(types.int64)), generate


next_chunk: Any = intrinsic(_fetch_and_add)
"""Return the counter's value and increase it by one, atomically."""


def kernel(function: Callable[[Any], None]) -> Any:
    """Compile a function that every thread runs. Its argument points to the array that `launch` fills."""
    return compile_cached(function, numba.cfunc, types.void(POINTER(types.int64)))


def launch(kernel: Any, num_chunks: int, *arguments: int | Tensor) -> None:
    """Run a kernel in torch's threads until all chunks are done.

    The kernel gets an int64 array: the counter of the chunks, their number, and the arguments, tensors as addresses.
    """
    values = (value if isinstance(value, int) else value.data_ptr() for value in arguments)
    data = np.array([0, num_chunks, *values], dtype=np.int64)
    parallel = gomp_parallel()
    assert parallel is not None
    parallel(kernel.address, data.ctypes.data, torch.get_num_threads(), 0)


@functools.cache
def gomp_parallel() -> Any:
    """Return `GOMP_parallel` of the GNU OpenMP library that torch ships; None if torch ships none."""
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"), None)
    if library is None:
        return None
    parallel = ctypes.CDLL(str(library)).GOMP_parallel
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel
