from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit
from fastcifar.errors import TrainingError
from fastcifar.optim.schedule import set_lr
from fastcifar.training import loss_scaling
from fastcifar.training.loss_scaling import LossScaler
from fastcifar.training.state import create_state
from fastcifar.training.step import run_step
from tests.helpers import TinyNet

CPU = torch.device("cpu")


class Overflows(TinyNet):
    """A network whose gradients overflow in some of its training steps, counted from 1."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.overflows, self.step = steps, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        self.step += self.training
        if self.training and self.step in self.overflows:
            logits.register_hook(lambda grad: grad * torch.inf)
        return logits


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_training_equals_that_with_the_gradient_scaler_of_torch(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, optimizer: Any, on_nonfinite: Any
) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 3)
    rates = {"max_lr": 0.01, "bias_lr": 0.01, "head_lr": 0.01, "l1": 1e-4, "on_nonfinite": on_nonfinite}
    run = config.replace(amp=True, amp_dtype="float16", optimizer=optimizer, padding=0, flip_p=0, cutout=0, **rates)
    torch.manual_seed(0)
    initial = TinyNet().state_dict()
    images, labels = torch.randint(0, 256, (10, 32, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (10, 32))

    with create_state(run, model=Overflows(2, 7)) as ours, create_state(run, model=Overflows(2, 7)) as theirs:
        ours.classifier.model.load_state_dict(initial)
        theirs.classifier.model.load_state_dict(initial)
        reference = torch.amp.GradScaler("cpu", growth_interval=3)
        scales = []
        for step in range(10):
            metrics = run_step(ours, images[step], labels[step], step)
            _reference_step(theirs, reference, images[step], labels[step], step)
            scales.append(reference.get_scale())
            assert ours.scaler.state_dict().items() <= reference.state_dict().items()
            assert metrics.skipped == 0, "an overflow of the scaled gradients is no failure of the run"
        assert ours.nonfinite.exceeded() is None
    assert scales == [2.0**16, 2.0**15, 2.0**15, 2.0**15, 2.0**16, 2.0**16, 2.0**15, 2.0**15, 2.0**15, 2.0**16]
    for name, tensor in ours.classifier.model.state_dict().items():
        assert torch.equal(tensor, theirs.classifier.model.state_dict()[name]), name


def _reference_step(
    state: Any, scaler: torch.amp.GradScaler, images: torch.Tensor, labels: torch.Tensor, step: int
) -> None:
    """A training step as in torch's documentation, with an L1 penalty."""
    set_lr(state.optimizer, step, state.total_steps, state.config.optim)
    state.optimizer.zero_grad()
    state.classifier.train()
    loss, _, _ = state.classifier.loss(images, labels, None, None, 0.0, False)
    scaler.scale(loss).backward()
    scaler.unscale_(state.optimizer)
    for weight in state.classifier.model.parameters():
        weight.grad += state.config.optim.l1 * weight.sign()
    scaler.step(state.optimizer)
    scaler.update()


def test_gradients_that_overflow_at_the_lowest_scale_end_the_run(config: TrainConfig) -> None:
    run = config.replace(amp=True, amp_dtype="float16", epochs=4)
    with create_state(run, model=Overflows(*range(2, 100))) as state:
        with pytest.raises(TrainingError, match=r"step 6 of epoch 3.*the loss or a gradient is not finite"):
            fit(state)
        assert state.scaler.state_dict()["scale"] == loss_scaling.LOWEST_SCALE


def test_the_scale_stays_where_it_is_while_updates_are_not_allowed() -> None:
    scaler, yes, no = LossScaler(CPU, enabled=True), torch.tensor(True), torch.tensor(False)
    scaler.update(yes, no)
    before = scaler.state_dict()
    for finite in (yes, no):
        scaler.update(finite, yes)
    assert scaler.state_dict() == before == {"scale": 2.0**16, "_growth_tracker": 1}


def test_the_scale_does_not_grow_to_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 1)
    scaler = LossScaler(CPU, enabled=True)
    for _ in range(200):
        scaler.update(torch.tensor(True), torch.tensor(False))
    assert scaler.state_dict() == {"scale": 2.0**127, "_growth_tracker": 0}


def test_other_precisions_are_not_scaled() -> None:
    scaler, loss = LossScaler(CPU, enabled=False), torch.ones(())
    assert scaler.scale(loss) is loss
    assert scaler.factor is None
    assert scaler.state_dict() == {}


def test_the_state_of_the_gradient_scaler_of_torch_is_read() -> None:
    reference = torch.amp.GradScaler("cpu", init_scale=512.0)
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters())
    reference.scale(layer(torch.ones(1, 1)).sum()).backward()
    reference.step(optimizer)
    reference.update()
    scaler = LossScaler(CPU, enabled=True)
    scaler.load_state_dict(reference.state_dict())
    assert scaler.state_dict() == {"scale": 512.0, "_growth_tracker": 1}
    scaler.load_state_dict({})  # of a run in another precision
    assert scaler.state_dict() == {"scale": 512.0, "_growth_tracker": 1}
