"""Facts about the machine that Linux gives without torch, and how glibc's malloc treats freed memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from its malloc.h."""


def usable_cores() -> int:
    """The number of cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@functools.cache
def cpu_info() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty if there is no such file."""
    path = Path("/proc/cpuinfo")
    first, *_ = path.read_text().split("\n\n") if path.exists() else [""]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """The processor's name, such as "AMD EPYC"."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's BF16)."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def has_amx() -> bool:
    """Whether the processor has Intel's matrix units (AMX) for bfloat16."""
    return "amx_bf16" in cpu_flags()


def cpu_flags() -> set[str]:
    """The instruction sets that /proc/cpuinfo lists."""
    info = cpu_info()
    return set(info.get("flags", info.get("Features", "")).split())


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations instead of returning it to the kernel.

    Each training step frees and allocates about a gigabyte. Once returned, it is zeroed page by page by the kernel when
    it is allocated again, which took a third of a step's time. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Make glibc return all memory that is free now to the kernel.

    Otherwise the process would keep the gigabyte that a training needs, and a little more with each training, since
    small allocations fragment the heap.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def anonymous_bytes() -> int:
    """Resident memory of this process in bytes, without mapped files (RssAnon).

    Raises:
        RuntimeError: the kernel is older than 4.5 and does not report it.
    """
    held = _status_bytes("RssAnon")
    if held is None:
        raise RuntimeError("/proc/self/status has no RssAnon: this kernel is older than 4.5")
    return held


def peak_memory_bytes() -> int:
    """Peak resident memory of this process in bytes (VmHWM).

    If the kernel does not report it, the value is getrusage's, which includes the peak of the parent process.
    """
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_bytes(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
