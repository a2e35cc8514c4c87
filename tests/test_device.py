from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastcifar import TrainConfig, fit, fit_epochs, get_recipe, machine
from fastcifar.cli import main
from fastcifar.config import LrFinderSettings
from fastcifar.device import (
    NO_BFLOAT16_ON_CPU,
    NO_TENSOR_CORES,
    RECOMPILE_LIMIT,
    apply_process_settings,
    preserve_random_state,
    resolve_runtime,
    set_random_state,
)
from fastcifar.errors import DeviceError
from fastcifar.gpu import missing_kernels
from fastcifar.lr_finder.range_test import range_test
from fastcifar.settings import RuntimeSettings
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state
from tests.helpers import TinyNet, imitate_gpus, tiny_state


def test_precision_is_resolved_from_settings_and_machine(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: True)
    monkeypatch.setattr("fastcifar.device.compiler_problem", lambda device_type: None)
    assert resolve_runtime(config.runtime).amp_dtype is None
    assert resolve_runtime(config.replace(amp=True).runtime).amp_dtype is torch.bfloat16
    forced = resolve_runtime(config.replace(amp=True, amp_dtype="float16").runtime)
    assert forced.amp_dtype is torch.float16
    assert forced.describe_precision() == "float16 (AMP, --amp-dtype), channels-last"
    described = resolve_runtime(config.replace(amp=True, compile=True).runtime).describe_precision()
    assert described == "bfloat16 (AMP, native), channels-last, compiled"


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: False)
    assert resolve_runtime(config.runtime).notes == ()
    runtime = resolve_runtime(config.replace(amp=True).runtime)
    assert (runtime.amp_dtype, runtime.notes) == (None, (NO_BFLOAT16_ON_CPU,))
    assert runtime.describe_precision() == "float32 (no bfloat16 on this CPU), channels-last"
    forced = resolve_runtime(config.replace(amp=True, amp_dtype="bfloat16").runtime)
    assert (forced.amp_dtype, forced.notes) == (torch.bfloat16, ())


@pytest.mark.parametrize("recipe", ["speedrun", "era-fast"])
@pytest.mark.parametrize(
    ("capability", "changes", "dtype", "described"),
    [
        ((9, 0), {}, torch.bfloat16, "bfloat16 (AMP, native)"),
        ((8, 0), {}, torch.bfloat16, "bfloat16 (AMP, native)"),
        ((7, 5), {}, torch.float16, "float16 (AMP, no bfloat16 on sm_75)"),
        ((7, 0), {}, torch.float16, "float16 (AMP, no bfloat16 on sm_70)"),
        ((6, 1), {}, None, "float32 (no tensor cores on sm_61)"),
        ((7, 5), {"amp_dtype": "bfloat16"}, torch.bfloat16, "bfloat16 (AMP, --amp-dtype)"),
        ((8, 0), {"amp_dtype": "float16"}, torch.float16, "float16 (AMP, --amp-dtype)"),
        ((7, 5), {"amp": False}, None, "float32"),
    ],
)
def test_a_gpu_computes_in_its_fastest_precision_with_cuda_graphs(
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    capability: tuple[int, int],
    changes: dict[str, Any],
    dtype: torch.dtype | None,
    described: str,
) -> None:
    imitate_gpus(monkeypatch, capability, built_for=("sm_60", "sm_70", "sm_75", "sm_80", "sm_90"))
    runtime = resolve_runtime(get_recipe(recipe, **changes).runtime)
    assert (runtime.device, runtime.amp_dtype) == (torch.device("cuda", 0), dtype)
    assert runtime.describe_precision() == f"{described}, channels-last, CUDA graphs"
    assert runtime.scales_loss == (dtype is torch.float16)
    assert runtime.notes == ((NO_TENSOR_CORES.format("sm_61"),) if capability == (6, 1) else ())


@pytest.mark.parametrize("recipe", ["speedrun", "era-fast"])
def test_a_cpu_trains_a_recipe_for_gpus_without_their_graphs_and_says_so(recipe: str) -> None:
    runtime = resolve_runtime(get_recipe(recipe, device="cpu").runtime)
    assert not runtime.cuda_graphs
    assert runtime.describe_precision().endswith(", channels-last, no CUDA graphs")


@pytest.mark.parametrize("capability", [(6, 0), (7, 0), (13, 0)], ids=["P100", "V100", "newer than torch"])
def test_a_gpu_without_kernels_is_passed_over_or_refused_with_the_same_words(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    imitate_gpus(monkeypatch, capability)
    runtime = resolve_runtime(config.replace(device="auto", amp=True).runtime)
    assert runtime.device == torch.device("cpu")
    assert not runtime.cuda_graphs
    words = str(missing_kernels(0))
    assert runtime.notes[0] == f"Computing on the CPU: {words}"
    with pytest.raises(DeviceError) as refused:
        resolve_runtime(config.replace(device="cuda").runtime)
    assert str(refused.value) == f"device cuda cannot be used: {words}; or use --device cpu"


def test_a_command_trains_on_the_cpu_where_the_gpu_has_no_kernels(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imitate_gpus(monkeypatch, (6, 0))
    sizes = ["--batch-size", "20", "--widths", "8", "16", "16", "--epochs", "0.2", "--no-report"]
    command = ["train", "--recipe", "speedrun", "--data-dir", str(betons), *sizes]
    assert main([*command, "--run-dir", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "device     CPU: " in output
    assert f"Computing on the CPU: {missing_kernels(0)}" in output
    assert main([*command, "--run-dir", str(tmp_path / "refused"), "--device", "cuda"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fastcifar: device cuda cannot be used: {missing_kernels(0)}; or use --device cpu"
    assert not (tmp_path / "refused").exists()


def test_auto_takes_the_first_gpu_that_has_kernels(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_gpus(monkeypatch, (6, 0), (7, 5))
    runtime = resolve_runtime(config.replace(device="auto").runtime)
    assert runtime.device == torch.device("cuda", 1)
    assert runtime.notes == (f"Computing on cuda:1: {missing_kernels(0)}",)
    imitate_gpus(monkeypatch, (7, 5), (6, 0))
    assert resolve_runtime(config.replace(device="auto").runtime).notes == ()


def test_a_gpu_that_is_not_there_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_gpus(monkeypatch, (8, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(
        DeviceError, match=r"device cuda:1 is not available.* sees 1 CUDA .*CUDA_VISIBLE_DEVICES is '0'"
    ):
        resolve_runtime(config.replace(device="cuda:1").runtime)


def test_training_goes_on_uncompiled_where_nothing_can_be_compiled(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    state = tiny_state(config.replace(compile=True, epochs=1))
    assert state.runtime.compile_mode is None
    assert state.runtime.describe_precision() == "float32, channels-last, no torch.compile"
    (note,) = state.notes
    assert note.startswith("torch.compile is off: the compiler /bin/false fails; install a C++ compiler")
    assert fit(state)[0].train_loss > 0


def test_a_speed_recipe_trains_in_float16_with_loss_scaling(betons: Path) -> None:
    shared: dict[str, Any] = {"data_dir": betons, "batch_size": 20, "epochs": 1, "widths": (8, 16, 16), "device": "cpu"}
    with create_state(get_recipe("speedrun", **shared, amp_dtype="float16")) as state:
        assert state.scaler.enabled
        (result,) = fit(state)
    (plain,) = fit(get_recipe("speedrun", **shared, amp=False))
    assert result.train_loss == pytest.approx(plain.train_loss, rel=0.1)


def test_a_bfloat16_run_resumes_in_float32_on_a_cpu_without_bfloat16(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config.replace(amp=True, run_dir=tmp_path)
    for fast, dtype in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda fast=fast: fast)
        with create_state(run, model=TinyNet()) as state:
            if dtype is None:
                restore(tmp_path, state)
            assert state.runtime.amp_dtype is dtype
            training = fit_epochs(state)
            next(training)
            training.close()
    assert state.epochs_done == 2


def test_only_apply_process_settings_changes_the_process(config: TrainConfig) -> None:
    with torch.compiler.config.patch(recompile_limit=8):
        resolve_runtime(config.replace(compile=True).runtime)
        assert torch.compiler.config.recompile_limit == 8
        apply_process_settings(config.runtime)
        assert torch.compiler.config.recompile_limit == 8
        apply_process_settings(config.replace(compile=True).runtime)
        assert torch._dynamo.config.recompile_limit == RECOMPILE_LIMIT


def test_the_random_state_is_restored_after_an_error() -> None:
    before = torch.get_rng_state()
    with contextlib.suppress(RuntimeError), preserve_random_state():
        torch.rand(3)
        raise RuntimeError("any")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cpu_run_never_touches_cuda(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_gpus(monkeypatch, (8, 0))

    touched: list[str] = []  # an exception would be caught
    for name in ("_lazy_init", "_lazy_call", "current_stream", "Stream", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, **__: touched.append(name))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: touched.append("pin_memory") or tensor)
    with create_state(config.replace(epochs=1, optimizer="sgd"), model=TinyNet()) as state:
        fit(state)
        range_test(state, LrFinderSettings(iterations=10))
        saved = state.state_dict()
        state.load_state_dict(saved)
    assert saved["random"]["cuda"] == []
    assert touched == []


@pytest.mark.gpu
def test_a_cpu_run_leaves_cuda_uninitialised_in_a_process_of_its_own(betons: Path) -> None:
    settings = f"data_dir={str(betons)!r}, device='cpu', widths=(8, 16, 16), batch_size=20, epochs=0.2"
    code = f"import torch, fastcifar; fastcifar.fit(fastcifar.get_recipe('speedrun', {settings}))"
    code += "; assert torch.cuda.is_available() and not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("saved", "device", "expected"),
    [
        (["a"], "cuda:0", ("a", "cuda:0")),
        (["a"], "cuda:1", ("a", "cuda:1")),
        (["a", "b", "c"], "cuda:1", ("b", "cuda:1")),
        (["a", "b", "c"], "cuda:0", ("a", "cuda:0")),
        ([], "cuda:0", None),
        (["a", "b"], "cpu", None),
    ],
)
def test_the_random_state_is_restored_on_a_machine_with_other_gpus(
    monkeypatch: pytest.MonkeyPatch, saved: list[str], device: str, expected: tuple[str, str] | None
) -> None:
    restored: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((state, str(device))))
    set_random_state({"cpu": torch.get_rng_state(), "cuda": saved}, torch.device(device))
    assert restored == ([] if expected is None else [expected])


def test_computing_in_a_fork_of_a_process_that_has_computed_is_an_error_that_names_spawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_process_with_threads", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    resolve_runtime(RuntimeSettings(device="cpu"))
    resolve_runtime(RuntimeSettings(device="cpu"))
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a fork
    with pytest.raises(DeviceError, match=r'start it with multiprocessing\.get_context\("spawn"\)'):
        resolve_runtime(RuntimeSettings(device="cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    resolve_runtime(RuntimeSettings(device="cpu"))
