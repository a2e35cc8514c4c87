"""Facts about the machine that the system gives without torch, and how glibc's malloc treats freed memory."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fastcifar.errors import DeviceError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from its malloc.h."""


def _affinity() -> frozenset[int]:
    """Return the cores that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS and Windows


AFFINITY = _affinity()
"""The cores that this process may run on, from before torch is imported: if OMP_PROC_BIND is set, torch's OpenMP then
binds the main thread, and all threads that this one starts later, to a single core."""


def usable_cores() -> int:
    """The number of cores that this process may keep busy, which can be fewer than the machine has.

    It is limited by the affinity (as with `taskset`) and by the quotas of control groups (as in a container with
    `--cpus`), which are rounded up.
    """
    return max(1, math.ceil(min(len(AFFINITY), cpu_quota())))


def decoding_threads() -> int:
    """The most threads that may decode images: one per usable core, and at most NUMBA_NUM_THREADS if that is set.

    Processes that a launcher has started on this machine (LOCAL_WORLD_SIZE of them) divide the cores.
    """
    limit, processes = (os.environ.get(name, "") for name in ("NUMBA_NUM_THREADS", "LOCAL_WORLD_SIZE"))
    cores = max(1, usable_cores() // max(1, int(processes))) if processes.isdecimal() else usable_cores()
    return min(cores, max(1, int(limit))) if limit.isdecimal() else cores


def cpu_quota(root: Path = Path("/")) -> float:
    """The cores' worth of time that the control groups of this process allow: the lowest quota, infinity if none.

    `root` is the folder that contains /proc and /sys.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return math.inf
    return min((quota for line in lines for quota in _quotas(line, root / "sys/fs/cgroup")), default=math.inf)


def _quotas(line: str, mounted: Path) -> Iterator[float]:
    """Yield the quotas of a control group, and of those that contain it, given its line in /proc/self/cgroup."""
    _, controllers, name = line.split(":", 2)
    is_v1 = "cpu" in controllers.split(",")
    if not is_v1 and controllers:
        return
    hierarchies = {controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu"} if is_v1 else {"", "unified"}
    read = _read_v1_quota if is_v1 else _read_v2_quota
    group = PurePosixPath(name)
    # inside a container, the name can be the one outside: then only the top of the hierarchy is there, with the quota
    for folder in (group, *group.parents):
        for hierarchy in hierarchies:
            try:
                yield read(mounted / hierarchy / str(folder).strip("/"))
            except (OSError, ValueError):
                continue


def _read_v2_quota(group: Path) -> float:
    quota, period = (group / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _read_v1_quota(group: Path) -> float:
    quota, period = (int((group / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
    return quota / period if quota > 0 else math.inf


def unbind() -> None:
    """Let this thread, and the threads that it will start, run on every core of `AFFINITY` again."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, AFFINITY)


_process_with_threads: int | None = None
"""The id of the process in which threads compute, or of the one that it was forked from."""


def require_threads(count: int) -> None:
    """Call this before `count` threads, of OpenMP, compute in this process.

    Raises:
        DeviceError: it was forked from a process in which they have computed. A fork does not copy threads, and OpenMP
            would wait for them for ever.
    """
    global _process_with_threads  # noqa: PLW0603  # a fact about the process, which a fork copies
    if count == 1:
        return
    if _process_with_threads not in (None, os.getpid()):
        raise DeviceError(
            "this process is a fork of one that has computed with torch, whose threads do not exist here: start it "
            'with multiprocessing.get_context("spawn"), or call torch.set_num_threads(1) in it'
        )
    _process_with_threads = os.getpid()


@functools.cache
def cpu_info() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty if there is no such file."""
    path = Path("/proc/cpuinfo")
    first, *_ = path.read_text().split("\n\n") if path.exists() else [""]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """The processor's name, such as "AMD EPYC 9354".

    Virtual machines can hide the number, and different processors are then all called "AMD EPYC". Such a name gets the
    family and the model, as in "AMD EPYC (family 26, model 2)".
    """
    info = cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in info or any(character.isdigit() for character in name):
        return name
    return f"{name} (family {info['cpu family']}, model {info['model']})"


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's BF16)."""
    return bfloat16_unit() != ""


def instruction_set() -> str:
    """The widest instructions that torch may use on this processor, such as "AVX2"; empty if it has none of these."""
    names = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((name for flag, name in names.items() if flag in cpu_flags()), "")
    return f"{widest} by a limit of this process" if is_limited_to_avx2() else widest


def bfloat16_unit() -> str:
    """The CPU flag of the fastest bfloat16 instructions: "amx_bf16", "avx512_bf16" or "bf16" (Arm); "" if none."""
    return next((flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in cpu_flags()), "")


def cpu_flags() -> set[str]:
    """The instruction sets that /proc/cpuinfo lists, without AVX-512 and AMX where torch is kept from using them."""
    info = cpu_info()
    flags = info.get("flags", info.get("Features", "")).split()
    return {flag for flag in flags if not (is_limited_to_avx2() and flag.startswith(("avx512", "amx")))}


def is_limited_to_avx2() -> bool:
    """Whether an environment variable keeps torch's kernels, or oneDNN's, from using AVX-512 and AMX.

    torch reads ATEN_CPU_CAPABILITY, and oneDNN ONEDNN_MAX_CPU_ISA.
    """
    capability, isa = (os.environ.get(name, "").upper() for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"))
    return capability in ("AVX2", "DEFAULT") or (isa.startswith(("SSE", "AVX")) and not isa.startswith("AVX512"))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations instead of returning it to the kernel.

    Each training step frees and allocates about a gigabyte. Once returned, it is zeroed page by page by the kernel when
    it is allocated again, which took a third of a step's time. Does nothing with another C library.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Make glibc return all memory that is free now to the kernel.

    Otherwise the process would keep the gigabyte that a training needs, and a little more with each training, since
    small allocations fragment the heap.
    """
    malloc_trim = _c_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _c_function(name: str) -> Any:
    """Return a function of the C library; None if it has none of that name, or if this is Windows."""
    return None if os.name == "nt" else getattr(ctypes.CDLL(None), name, None)


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

    If the kernel does not report it, the value is getrusage's, which includes the peak of the parent process; 0 on
    Windows.
    """
    if (peak := _status_bytes("VmHWM")) is not None:
        return peak
    if resource is None:
        return 0
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory_bytes(root: Path = Path("/")) -> float:
    """Memory in bytes that this machine can give without swapping, within the limit of the control group.

    Infinity if the system does not report it. `root` is the folder that contains /proc and /sys.
    """
    available = math.inf
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
        group = root / "sys/fs/cgroup"
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
    except OSError:  # no Linux, or no control groups of version 2
        return available


def _status_bytes(name: str) -> int | None:
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
