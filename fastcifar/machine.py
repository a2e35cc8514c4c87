"""What the machine is, as far as Linux tells without torch."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path


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
    info = cpu_info()
    flags = info.get("flags", info.get("Features", "")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def peak_memory_bytes() -> int:
    """Largest resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
