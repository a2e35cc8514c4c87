from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastcifar import device, machine
from fastcifar.device import apply_process_settings
from fastcifar.machine import (
    anonymous_bytes,
    available_memory_bytes,
    cpu_quota,
    decoding_threads,
    give_back_freed_memory,
    keep_freed_memory,
    peak_memory_bytes,
    usable_cores,
)
from fastcifar.settings import RuntimeSettings

PAGES = 16_384  # of 4 KiB: 64 MiB


def test_most_freed_memory_is_reused_without_page_faults() -> None:
    keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(PAGES * 4096, dtype=torch.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * PAGES


def test_the_peak_memory_of_a_process_does_not_include_its_parents() -> None:
    held = torch.ones(PAGES * 4096 * 8, dtype=torch.uint8)  # 512 MiB
    code = "from fastcifar.machine import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_bytes() > len(held)
    assert 1 << 20 < int(done.stdout) < len(held) // 2


def test_freed_memory_is_returned_on_request() -> None:
    keep_freed_memory()
    give_back_freed_memory()
    before = anonymous_bytes()
    large, small = zip(*((torch.ones(1 << 20), torch.ones(1 << 10)) for _ in range(32)), strict=True)  # 4 MiB, 4 KiB
    assert anonymous_bytes() - before > 120 << 20
    del large
    assert anonymous_bytes() - before > 60 << 20
    give_back_freed_memory()
    assert anonymous_bytes() - before < 8 << 20
    assert len(small) == 32


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/job\n", {f"{V2}/job/cpu.max": "max 100000"}, math.inf),
        ("0::/job\n", {f"{V2}/job/cpu.max": "150000 100000"}, 1.5),
        ("0::/job/step\n", {f"{V2}/job/cpu.max": "50000 100000", f"{V2}/job/step/cpu.max": "max 100000"}, 0.5),
        ("0::/docker/abc\n", {f"{V2}/cpu.max": "200000 100000"}, 2),
        ("2:cpu,cpuacct:/\n0::/\n", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, math.inf),
        (
            "12:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
            {f"{V1}/cpu.cfs_quota_us": "100000", f"{V1}/cpu.cfs_period_us": "100000"},
            1,
        ),
        (
            "1:cpu:/job\n0::/\n",
            {f"{V2}/cpu/job/cpu.cfs_quota_us": "300000", f"{V2}/cpu/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("0::/\n", {f"{V2}/cpu.max": "damaged"}, math.inf),
    ],
)
def test_the_quota_is_the_lowest_one_of_the_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float
) -> None:
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path) == expected


def test_a_system_without_affinities_has_all_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert len(machine._affinity()) == os.cpu_count()
    machine.unbind()


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1, 1), (1.5, 2), (4, 4), (9, 8), (math.inf, 8)])
def test_the_usable_cores_are_those_of_the_affinity_up_to_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
) -> None:
    monkeypatch.setattr(machine, "AFFINITY", frozenset(range(8)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(("limit", "threads"), [("1", 1), ("3", 3), ("99", 8), ("0", 1), ("many", 8), ("", 8)])
def test_numbas_number_of_threads_limits_the_decoding(
    monkeypatch: pytest.MonkeyPatch, limit: str, threads: int
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setenv("NUMBA_NUM_THREADS", limit)
    assert decoding_threads() == threads


@pytest.fixture
def group_of_one_core() -> Iterator[Path]:
    """A control group with a quota of one core."""
    group = Path("/sys/fs/cgroup/cpu") / f"fastcifar-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"control groups of version 1 cannot be made here ({error})")
    yield group
    group.rmdir()


def _run(code: str, **environment: str) -> list[str]:
    """Return what a new process prints, without the variables of this one that set a number of threads."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "NUMBA_"))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=others | environment)
    return done.stdout.split()


def test_a_process_in_a_control_group_with_a_quota_of_one_core_uses_one(group_of_one_core: Path) -> None:
    code = f"import os; open({str(group_of_one_core / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    assert _run(f"{code}import fastcifar; print(fastcifar.machine.usable_cores())") == ["1"]


def test_threads_that_openmp_has_bound_to_one_core_use_all_again() -> None:
    code = """
import contextlib, os, threading, fastcifar, torch
from fastcifar.cli import main
bound = len(os.sched_getaffinity(0))
with contextlib.redirect_stdout(None):
    main(["recipes"])
import numba
print(bound, fastcifar.machine.usable_cores(), numba.config.NUMBA_NUM_THREADS, flush=True)
threading.Thread(target=lambda: print(len(os.sched_getaffinity(0)))).start()
"""
    cores = str(len(os.sched_getaffinity(0)))
    assert _run(code, OMP_PROC_BIND="true", OMP_NUM_THREADS="1") == ["1", str(usable_cores()), cores, cores]


def test_torchs_threads_are_at_most_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        for cores, expected in ((1, 1), (4, 3)):
            torch.set_num_threads(3)
            monkeypatch.setattr(device, "usable_cores", lambda cores=cores: cores)
            apply_process_settings(RuntimeSettings(device="cpu"))
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("environment", "limited"),
    [
        ({}, False),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, True),
        ({"ATEN_CPU_CAPABILITY": "default"}, True),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "avx2_vnni"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, False),
    ],
)
def test_instructions_that_torch_is_kept_from_using_do_not_count(
    environment: dict[str, str], limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_info", lambda: {"flags": "fma avx2 avx512f avx512_bf16 amx_bf16"})
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert machine.has_fast_bfloat16() is not limited
    assert machine.bfloat16_unit() == ("" if limited else "amx_bf16")
    assert machine.instruction_set() == ("AVX2 by a limit of this process" if limited else "AMX")
    assert {"fma", "avx2"} <= machine.cpu_flags()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AMD EPYC", "AMD EPYC (family 26, model 2)"),
        ("AMD EPYC 9354 32-Core Processor", "AMD EPYC 9354 32-Core Processor"),
    ],
)
def test_processors_whose_number_is_hidden_are_told_apart(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_info", lambda: {"model name": name, "cpu family": "26", "model": "2"})
    assert machine.cpu_name() == expected


@pytest.mark.parametrize(("limit", "expected"), [("max\n", 3000 * 1024), ("1000000\n", 600_000), ("1000\n", 0)])
def test_available_memory_is_within_the_limit_of_the_control_group(tmp_path: Path, limit: str, expected: int) -> None:
    assert available_memory_bytes(tmp_path) == math.inf
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       9000 kB\nMemAvailable:   3000 kB\n")
    assert available_memory_bytes(tmp_path) == 3000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("400000\n")
    assert available_memory_bytes(tmp_path) == expected
