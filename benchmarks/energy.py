"""The energy of a piece of work in joules, where the processor (RAPL) or the GPU (NVML) counts it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

POWERCAP = Path("/sys/class/powercap")
"""Linux's folder of RAPL's counters, of Intel's and AMD's processors alike. Often only root may read them."""
NVML = "libnvidia-ml.so.1"
"""NVIDIA's management library, a part of the driver. Its counter needs Volta or later."""


class Counter(NamedTuple):
    """A counter of joules."""

    read: Callable[[], float]
    """Raises OSError if it cannot be read."""
    limit: float
    """Joules at which it starts again from zero."""


class EnergyMeter:
    """Adds up the joules of a device: of a GPU, or of all processors of the machine with their memory.

    What else runs there counts, too. On a CPU, call `joules` every ten minutes at least: RAPL's counters start again
    from zero after some 100 kJ, and only one such restart between two calls can be noticed.
    """

    def __init__(self, device: torch.device) -> None:
        self._counters: list[Counter] = []
        self._last: list[float] = []
        self._joules = 0.0
        try:
            self._counters = [_gpu_counter(device)] if device.type == "cuda" else _processor_counters()
            self._last = [counter.read() for counter in self._counters]
        except OSError:
            self._counters = []

    def joules(self) -> float | None:
        """Return the joules since the meter was created; None where no counter can be read."""
        try:
            values = [counter.read() for counter in self._counters]
        except OSError:
            self._counters = []
        if not self._counters:
            return None
        for counter, value, last in zip(self._counters, values, self._last, strict=True):
            self._joules += value - last + (counter.limit if value < last else 0.0)
        self._last = values
        return self._joules


def _processor_counters() -> list[Counter]:
    """Return the counters of the processors' packages and of the memory. Those of cores are parts of a package."""
    counters = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        name = (zone / "name").read_text().strip()
        if name.startswith("package") or name == "dram":
            limit = _read_microjoules(zone / "max_energy_range_uj")
            counters.append(Counter(partial(_read_microjoules, zone / "energy_uj"), limit))
    return counters


def _read_microjoules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _gpu_counter(device: torch.device) -> Counter:
    """Return the counter of a GPU, which NVML finds by its UUID, since it numbers GPUs in another way than torch."""
    nvml, handle = ctypes.CDLL(NVML), ctypes.c_void_p()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    _require_success(nvml.nvmlInit_v2())
    _require_success(nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)))

    def read() -> float:
        millijoules = ctypes.c_ulonglong()
        _require_success(nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    return Counter(read, math.inf)


def _require_success(code: int) -> None:
    if code:
        raise OSError(f"NVML ends with code {code}")
