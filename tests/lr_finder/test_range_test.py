from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig
from fastcifar.config import LrFinderSettings
from fastcifar.device import get_random_state
from fastcifar.lr_finder.range_test import range_test
from fastcifar.optim.muon import Muon
from fastcifar.runs.checkpoint import state_sha256
from fastcifar.training.loop import train_epoch
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.warmup import warm_up
from tests.helpers import TinyNet, tiny_state

SHORT = LrFinderSettings(iterations=20, start_lr=1e-4, smoothing=0.2)


def _fingerprint(state: TrainState) -> str:
    """A hash of everything that a range test must not change."""
    values = {
        "model": state.classifier.model.state_dict(),
        "gradients": [parameter.grad for parameter in state.classifier.model.parameters()],
        "augmentation": state.classifier.augmentation.state_dict(),
        "training": (state.classifier.model.training, state.classifier.augmentation.training),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random": (get_random_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "progress": (state.epochs_done, state.epoch_steps_done),
    }
    return state_sha256(values)


@pytest.mark.parametrize("changes", [{}, {"amp": True}, {"amp": True, "amp_dtype": "float16"}, {"optimizer": "sgd"}])
def test_a_range_test_does_not_change_the_state(config: TrainConfig, changes: dict[str, Any]) -> None:
    state = tiny_state(config.replace(**changes))
    next(state.train_loader.batches())
    before = _fingerprint(state)
    assert len(range_test(state, SHORT).lrs) > 10
    assert _fingerprint(state) == before
    state.close()


def test_the_groups_keep_the_ratios_of_their_learning_rates(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrs: list[list[float]] = []

    def step(muon: Muon, closure: None = None) -> None:
        lrs.append([group["lr"] for group in muon.param_groups])

    monkeypatch.setattr(Muon, "step", step)
    config = config.replace(optimizer="muon", max_lr=0.2, bias_lr=4.0, head_lr=6.0)
    state = tiny_state(config)
    curve = range_test(state, SHORT)
    assert len(lrs) == len(curve.lrs)
    for (filters, vectors, matrices), lr in zip(lrs, curve.lrs, strict=True):
        assert (filters, vectors, matrices) == pytest.approx((lr, 20 * lr, 30 * lr))
    state.close()


def test_an_error_in_a_range_test_does_not_change_the_state(config: TrainConfig) -> None:
    state = tiny_state(config)
    before = _fingerprint(state)

    def stop(lr: float, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        range_test(state, SHORT, on_loss=stop)
    assert _fingerprint(state) == before


@pytest.mark.parametrize(
    ("mode", "expected"), [("exp", np.geomspace(1e-5, 1e-2, 13)), ("linear", np.linspace(1e-5, 1e-2, 13))]
)
def test_the_learning_rate_rises_over_more_than_one_epoch(config: TrainConfig, mode: Any, expected: Any) -> None:
    seen: list[tuple[float, float]] = []
    settings = LrFinderSettings(start_lr=1e-5, end_lr=1e-2, iterations=13, mode=mode, smoothing=0)
    curve = range_test(tiny_state(config), settings, on_loss=lambda lr, loss: seen.append((lr, loss)))
    assert curve.lrs == pytest.approx(expected)
    assert curve.diverged_at is None
    assert curve.losses == curve.raw, "no smoothing"
    assert seen == list(zip(curve.lrs, curve.raw, strict=True))


def test_the_losses_equal_those_of_a_training(config: TrainConfig) -> None:
    """At a constant learning rate, the steps are those of the first epoch; smoothing is a running mean."""
    config = config.replace(max_lr=1e-3, div_factor=1.0, l1=1e-3)
    settings = LrFinderSettings(start_lr=1e-3, end_lr=1.0000001e-3, iterations=12, smoothing=0.25)
    curve = range_test(tiny_state(config), settings)
    state = tiny_state(config)
    train_epoch(state, warm_up(state).run_step)
    loss = float(state.epoch_totals.loss) / state.epoch_steps_done
    assert np.mean(curve.raw[:6]) == pytest.approx(loss, rel=1e-5)
    smoothed = [curve.raw[0]]
    for value in curve.raw[1:]:
        smoothed.append(0.25 * value + 0.75 * smoothed[-1])
    assert curve.losses == pytest.approx(smoothed)


def test_a_range_test_prints_nothing(config: TrainConfig, capfd: pytest.CaptureFixture[str]) -> None:
    range_test(tiny_state(config), SHORT)
    assert capfd.readouterr() == ("", "")


class BreaksDown(TinyNet):
    """NaN from the 13th training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return super().forward(images) * (math.nan if self.calls > 12 else 1.0)


def test_a_non_finite_loss_ends_the_test_and_is_left_out(config: TrainConfig) -> None:
    curve = range_test(create_state(config, model=BreaksDown()), SHORT)
    assert len(curve.lrs) == len(curve.losses) == len(curve.raw) == 12
    assert np.isfinite(curve.losses).all()
    assert curve.diverged_at == pytest.approx(np.geomspace(1e-4, 1, 20)[12])


def test_a_loss_that_explodes_ends_the_test(config: TrainConfig) -> None:
    curve = range_test(tiny_state(config), LrFinderSettings(start_lr=1e-3, end_lr=1e4, diverge=1.5))
    assert len(curve.lrs) < 100
    assert curve.diverged_at == curve.lrs[-1]
    assert curve.losses[-1] > 1.5 * min(curve.losses)
