"""What the machine is, as far as Linux tells without torch."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's names for what `mallopt` sets, from its malloc.h."""


def usable_cores() -> int:
    """The cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def cpu_info() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    first, *_ = path.read_text().split("\n\n") if path.exists() else [""]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """Such as "AMD EPYC"."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's BF16)."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def has_amx() -> bool:
    """Whether the processor has Intel's matrix units (AMX) for bfloat16."""
    return "amx_bf16" in cpu_flags()


def cpu_flags() -> set[str]:
    """The instruction sets that /proc/cpuinfo names."""
    info = cpu_info()
    return set(info.get("flags", info.get("Features", "")).split())


def keep_freed_memory() -> None:
    """Have glibc keep the memory that is freed for the next allocation, instead of giving it back to the kernel.

    Each training step frees and takes about a gigabyte; given back, it is zeroed page by page when it is taken again,
    which was a third of a step's time. Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Have glibc give the kernel the memory that is free now, wherever in its heaps it lies.

    It would keep a training's gigabyte for as long as the process lives, and a little more with each training, as small
    things come to lie between the large ones.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def anonymous_bytes() -> int:
    """Memory that this process holds for itself, mapped files aside (RssAnon).

    Raises:
        RuntimeError: the kernel is older than 4.5 and does not count it.
    """
    held = _status_bytes("RssAnon")
    if held is None:
        raise RuntimeError("/proc/self/status has no RssAnon: this kernel is older than 4.5")
    return held


def peak_memory_bytes() -> int:
    """Largest cache_on_device memory that this process has had (VmHWM).

    Where the kernel does not count it, getrusage's, which begins with that of the process that started this one.
    """
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_bytes(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
