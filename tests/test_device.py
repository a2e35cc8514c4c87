from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from fastcifar import TrainConfig, fit, fit_epochs, get_recipe
from fastcifar.device import (
    NO_BFLOAT16_ON_CPU,
    NO_BFLOAT16_ON_GPU,
    NO_GRAPHS_IN_FLOAT16,
    RECOMPILE_LIMIT,
    apply_process_settings,
    choose_precision,
    preserve_random_state,
    resolve_runtime,
)
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state
from tests.helpers import TinyNet, tiny_state


def test_precision_is_resolved_from_settings_and_machine(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: True)
    assert resolve_runtime(config.runtime).amp_dtype is None
    assert resolve_runtime(config.replace(amp=True).runtime).amp_dtype is torch.bfloat16
    forced = config.replace(amp=True, amp_dtype="float16")
    assert resolve_runtime(forced.runtime).amp_dtype is torch.float16
    described = resolve_runtime(config.replace(amp=True, compile=True).runtime).describe_precision()
    assert described == "bfloat16 (AMP), channels-last, compiled"


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: False)
    assert resolve_runtime(config.runtime).notes == ()
    runtime = resolve_runtime(config.replace(amp=True).runtime)
    assert (runtime.amp_dtype, runtime.notes) == (None, (NO_BFLOAT16_ON_CPU,))
    assert runtime.describe_precision() == "float32, channels-last"
    forced = resolve_runtime(config.replace(amp=True, amp_dtype="bfloat16").runtime)
    assert (forced.amp_dtype, forced.notes) == (torch.bfloat16, ())


@pytest.mark.parametrize("recipe", ["speedrun", "era-fast"])
@pytest.mark.parametrize(
    ("changes", "device_type", "bfloat16", "dtype", "graphs", "notes"),
    [
        ({}, "cpu", True, torch.bfloat16, False, ()),
        ({}, "cpu", False, None, False, (NO_BFLOAT16_ON_CPU,)),
        ({}, "cuda", True, torch.bfloat16, True, ()),
        ({}, "cuda", False, torch.float16, False, (NO_BFLOAT16_ON_GPU,)),
        ({"amp": False}, "cpu", False, None, False, ()),
        ({"amp": False}, "cuda", False, None, True, ()),
        ({"amp_dtype": "bfloat16"}, "cpu", False, torch.bfloat16, False, ()),
        ({"amp_dtype": "bfloat16"}, "cuda", False, torch.bfloat16, True, ()),
        ({"amp_dtype": "float16"}, "cpu", False, torch.float16, False, ()),
        ({"amp_dtype": "float16"}, "cuda", True, torch.float16, False, (NO_GRAPHS_IN_FLOAT16,)),
        ({"amp_dtype": "float16", "cuda_graphs": False}, "cuda", True, torch.float16, False, ()),
        ({"cuda_graphs": False}, "cuda", False, torch.float16, False, ()),
    ],
)
def test_the_precision_follows_from_settings_and_device(
    recipe: str,
    changes: dict[str, Any],
    device_type: str,
    bfloat16: bool,
    dtype: torch.dtype | None,
    graphs: bool,
    notes: tuple[str, ...],
) -> None:
    settings = get_recipe(recipe, **changes).runtime
    assert choose_precision(settings, device_type, bfloat16) == (dtype, graphs, notes)


def test_a_speed_recipe_trains_in_float16_with_loss_scaling(betons: Path) -> None:
    shared: dict[str, Any] = {"data_dir": betons, "batch_size": 20, "epochs": 1, "widths": (8, 16, 16), "device": "cpu"}
    with create_state(get_recipe("speedrun", **shared, amp_dtype="float16")) as state:
        assert state.scaler.enabled
        (result,) = fit(state)
    (plain,) = fit(get_recipe("speedrun", **shared, amp=False))
    assert result.train_loss == pytest.approx(plain.train_loss, rel=0.1)


def test_a_bfloat16_run_resumes_in_float16(config: TrainConfig) -> None:
    saved = tiny_state(config.replace(amp=True, amp_dtype="bfloat16")).state_dict()
    state = tiny_state(config.replace(amp=True, amp_dtype="float16"))
    state.load_state_dict(saved)
    assert next(fit_epochs(state)).train_loss < 10
    again = tiny_state(state.config)
    again.load_state_dict(state.state_dict())
    assert again.scaler.state_dict() == state.scaler.state_dict()


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
        assert torch._dynamo.config.recompile_limit == RECOMPILE_LIMIT


def test_the_random_state_is_restored_after_an_error() -> None:
    before = torch.get_rng_state()
    with contextlib.suppress(RuntimeError), preserve_random_state():
        torch.rand(3)
        raise RuntimeError("any")
    assert torch.equal(torch.get_rng_state(), before)
