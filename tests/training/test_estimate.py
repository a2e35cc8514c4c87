from __future__ import annotations

import dataclasses

import pytest
import torch

from fastcifar import TrainConfig, clock, fit
from fastcifar.training import estimate
from fastcifar.training.estimate import estimate_seconds
from fastcifar.training.state import TrainState
from tests.helpers import tiny_state, train_tiny

STAGES = {"resize_sizes": (16, 24), "resize_fractions": (0.25, 0.5), "freeze": ("0", "1"), "freeze_at": (0.3, 0.8)}


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "muon", "flip_p": 0.0, "alternate_flip": True, **STAGES}, {"amp": True}]
)
def test_a_run_after_an_estimate_is_the_same_run(config: TrainConfig, changes: dict[str, object]) -> None:
    run = config.replace(epochs=1, **changes)
    state = tiny_state(run)
    estimate_seconds(state)
    (measured,), (expected,) = fit(state), train_tiny(run)
    assert (measured.train_loss, measured.test_loss) == (expected.train_loss, expected.test_loss)


def _set_step_times(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a step take 10 ms and 1 ms per image, at any size, and an evaluation no time; return the batch sizes."""
    time, batches = [0.0], []

    def train_step(state: TrainState, images: torch.Tensor, *_: object, **__: object) -> None:
        batches.append(len(images))
        time[0] += 0.01 + 0.001 * len(images)

    def now() -> float:
        time[0] += 1e-9
        return time[0]

    monkeypatch.setattr(estimate, "train_step", train_step)
    monkeypatch.setattr(clock, "now", now)
    return batches


@pytest.mark.parametrize("batch_size", [40, 100])
def test_the_time_is_extrapolated_to_the_runs_batches(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    state = tiny_state(config.replace(batch_size=batch_size, epochs=400))
    _set_step_times(monkeypatch)
    whole = 400 * (200 // batch_size) * (0.01 + 0.001 * batch_size)
    assert estimate_seconds(state) == pytest.approx(whole, rel=1e-3)
    state.epochs_done = 300
    assert estimate_seconds(state) == pytest.approx(whole / 4, rel=1e-3)


def test_steps_at_several_sizes_are_measured_at_one(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"resize_sizes": (8,), "resize_fractions": (0.5,)}
    state = tiny_state(config.replace(batch_size=100, epochs=400, **stages))
    batches = _set_step_times(monkeypatch)
    assert estimate_seconds(state) == pytest.approx(400 * (1 + (8 / 32) ** 2) * 0.11, rel=1e-3)
    assert batches[:3] == [estimate.FIRST_BATCH] * 3
    assert len(batches) == 5


def test_a_short_run_is_measured_shortly(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = _set_step_times(monkeypatch)
    estimate_seconds(tiny_state(config.replace(batch_size=100, epochs=1)))
    assert batches == [estimate.FIRST_BATCH] * 3


def test_a_slow_machine_measures_small_batches_only(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "BUDGET_SECONDS", 0.1)
    batches = _set_step_times(monkeypatch)
    seconds = estimate_seconds(tiny_state(config.replace(batch_size=100, epochs=400)))
    assert max(batches) == estimate.FIRST_BATCH
    assert seconds == pytest.approx(800 * 0.026 * 100 / 16, rel=1e-3)


def test_a_gpu_is_not_measured(config: TrainConfig) -> None:
    state = tiny_state(config)
    state.classifier.runtime = dataclasses.replace(state.runtime, device=torch.device("cuda"))
    assert estimate_seconds(state) is None
