from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit
from fastcifar.errors import TrainingError
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint
from fastcifar.runs.results import StepProgress
from fastcifar.training.state import create_state
from fastcifar.training.step import train_step
from tests.helpers import TinyNet


class _Breaks(nn.Module):
    """A network whose logits, or their gradients alone, are not finite in some of its training steps."""

    def __init__(self, *steps: int, gradient: bool = False) -> None:
        super().__init__()
        self.net, self.steps, self.gradient, self.step = TinyNet(), steps, gradient, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        if not self.training:
            return logits
        self.step += 1
        if self.step not in self.steps:
            return logits
        if self.gradient:
            logits.register_hook(lambda grad: grad * torch.inf)
            return logits
        return self.net(images * torch.nan)  # changes the running statistics as well


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_a_nonfinite_step_stops_the_run_before_the_weights_are_updated(
    config: TrainConfig, tmp_path: Path, optimizer: Any, gradient: bool
) -> None:
    run = config.replace(optimizer=optimizer, max_lr=0.01, bias_lr=0.01, head_lr=0.01, run_dir=tmp_path)
    state = create_state(run, model=_Breaks(9, gradient=gradient))
    weights: list[torch.Tensor] = []

    def on_step(_: StepProgress) -> None:
        weights[:] = [parameter.detach().clone() for parameter in state.classifier.model.parameters()]

    with pytest.raises(
        TrainingError, match=r"step 3 of epoch 2, at learning rate 0\.00\d+: the loss or a gradient is not finite"
    ):
        fit(state, on_step=on_step)
    assert all(map(torch.equal, weights, state.classifier.model.parameters()))
    assert read_checkpoint(checkpoint_path(tmp_path, "last"))["progress"]["epochs_done"] == 1


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_nonfinite_steps_can_be_skipped(config: TrainConfig, optimizer: Any, gradient: bool) -> None:
    rates = {"optimizer": optimizer, "max_lr": 0.01, "bias_lr": 0.01, "head_lr": 0.01}
    run = config.replace(on_nonfinite="skip", max_skipped=2, **rates)
    model = _Breaks(3, 9, gradient=gradient)
    results = fit(run, model=model)
    assert [result.skipped_steps for result in results] == [1, 1, 0]
    assert all(0 < result.train_loss < 10 for result in results)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    with pytest.raises(TrainingError, match=r"step 3 of epoch 1, .* and 2 steps after it"):
        fit(run, model=_Breaks(3, 9, 10, gradient=gradient))


def test_a_skipped_step_changes_nothing(config: TrainConfig) -> None:
    for optimizer in ("adam", "sgd", "muon"):
        run = config.replace(on_nonfinite="skip", optimizer=optimizer)  # type: ignore[arg-type]
        state = create_state(run, model=_Breaks(2))
        images, labels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8)
        train_step(state, images, labels)
        before = copy.deepcopy((state.classifier.model.state_dict(), state.optimizer.state_dict()))
        assert torch.stack(train_step(state, images, labels)).tolist() == [0, 0, 1]
        after = (state.classifier.model.state_dict(), state.optimizer.state_dict())
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert train_step(state, images, labels).loss > 0
        state.close()


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_a_first_step_that_is_skipped_leaves_no_uninitialised_memory(config: TrainConfig, optimizer: Any) -> None:
    state = create_state(config.replace(on_nonfinite="skip", optimizer=optimizer), model=_Breaks(1))
    images, labels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        state.classifier.train()
        assert train_step(state, images, labels).skipped == 1
        assert train_step(state, images, labels).skipped == 0
    finally:
        torch.use_deterministic_algorithms(False)
        state.close()
    assert all(value.isfinite().all() for value in state.classifier.model.state_dict().values())


def test_an_overflow_that_loss_scaling_handles_is_not_a_nonfinite_step(config: TrainConfig) -> None:
    results = fit(config.replace(amp=True, amp_dtype="float16"), model=_Breaks(2, gradient=True))
    assert [result.skipped_steps for result in results] == [0, 0, 0]
    with pytest.raises(TrainingError, match="step 2 of epoch 1"):
        fit(config.replace(amp=True, amp_dtype="float16"), model=_Breaks(2))
