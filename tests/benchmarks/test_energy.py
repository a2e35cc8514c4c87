from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import energy
from benchmarks.energy import EnergyMeter

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def _write_zone(folder: Path, zone: str, name: str, joules: float) -> None:
    (folder / zone).mkdir(exist_ok=True)
    values = {"name": name, "energy_uj": round(joules * 1e6), "max_energy_range_uj": 1_000_000_000}
    for file, value in values.items():
        (folder / zone / file).write_text(f"{value}\n")


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with counters of a package of 990 J, its cores, its memory and the whole machine."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    _write_zone(tmp_path, "intel-rapl:0", "package-0", 990)
    _write_zone(tmp_path, "intel-rapl:0:0", "core", 500)
    _write_zone(tmp_path, "intel-rapl:0:1", "dram", 10)
    _write_zone(tmp_path, "intel-rapl:1", "psys", 2000)
    return tmp_path


def test_packages_and_memory_are_added_also_when_a_counter_starts_again(rapl: Path) -> None:
    meter = EnergyMeter(CPU)
    assert meter.joules() == 0
    _write_zone(rapl, "intel-rapl:0", "package-0", 995)
    _write_zone(rapl, "intel-rapl:0:0", "core", 800)
    _write_zone(rapl, "intel-rapl:0:1", "dram", 12.5)
    _write_zone(rapl, "intel-rapl:1", "psys", 3000)
    assert meter.joules() == pytest.approx(7.5)
    _write_zone(rapl, "intel-rapl:0", "package-0", 15)
    assert meter.joules() == pytest.approx(27.5)


def test_nothing_is_guessed_where_nothing_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "missing")
    assert EnergyMeter(CPU).joules() is None
    monkeypatch.setattr(energy, "NVML", "libthatdoesnotexist.so.1")
    assert EnergyMeter(GPU).joules() is None


def test_without_permission_for_one_counter_there_is_no_sum(rapl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read_text = EnergyMeter(CPU), Path.read_text

    def refuse(path: Path, *options: Any) -> str:
        if path == rapl / "intel-rapl:0:1" / "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert EnergyMeter(CPU).joules() is None
    assert whole.joules() is None
    monkeypatch.undo()
    assert whole.joules() is None


class _Nvml:
    """Imitates the driver's library, with a GPU of one UUID."""

    def __init__(self, supported: bool) -> None:
        self.millijoules, self.supported = 5_000_000, supported

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        return 0 if uuid == b"GPU-12ab" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, result: Any) -> int:  # noqa: N802
        result._obj.value = self.millijoules
        return 0 if self.supported else 3


@pytest.mark.parametrize(
    ("uuid", "supported", "expected"), [("12ab", True, 2.5), ("12ab", False, None), ("9", True, None)]
)
def test_a_gpu_is_found_by_its_uuid(
    monkeypatch: pytest.MonkeyPatch, uuid: str, supported: bool, expected: float | None
) -> None:
    nvml = _Nvml(supported)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
    meter = EnergyMeter(GPU)
    nvml.millijoules += 2500
    assert meter.joules() == expected


@pytest.mark.gpu
def test_a_gpu_counts_its_joules() -> None:
    meter = EnergyMeter(torch.device("cuda:0"))
    matrix = torch.ones(4096, 4096, device="cuda")
    for _ in range(200):
        matrix @ matrix
    torch.cuda.synchronize()
    joules = meter.joules()
    assert joules is None or joules > 1
