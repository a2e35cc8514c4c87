from __future__ import annotations

import functools
import itertools

import pytest
import torch

from fastcifar import TrainConfig, fit
from fastcifar.errors import ConfigError
from fastcifar.runs.results import StepProgress
from fastcifar.training.loop import train_epoch
from fastcifar.training.state import create_state
from fastcifar.training.step import run_step


def test_frozen_modules_keep_their_weights_and_the_others_train(config: TrainConfig) -> None:
    modules = {"freeze": ("prep", "layer1"), "freeze_at": (0.25, 0.75)}
    config = config.replace(model="custom_resnet", epochs=2, weight_decay=0.1, **modules)
    state = create_state(config)
    steps: list[dict[str, torch.Tensor]] = []

    def keep(_: StepProgress) -> None:
        steps.append({name: value.detach().clone() for name, value in state.classifier.model.named_parameters()})

    fit(state, on_step=keep)
    assert len(steps) == 12
    for module, last in (("prep", 3), ("layer1", 9), ("layer3", 12), ("head", 12)):
        names = [name for name in steps[0] if name.startswith(module)]
        assert names
        for number, (before, after) in enumerate(itertools.pairwise(steps), start=2):
            moved = any(not torch.equal(before[name], after[name]) for name in names)
            assert moved == (number <= last), f"{module} in step {number}"


def test_a_resumed_run_has_the_same_modules_frozen(config: TrainConfig) -> None:
    config = config.replace(model="custom_resnet", freeze=("prep",), freeze_at=(0.25,))
    state = create_state(config)
    state.epochs_done = 1
    train_epoch(state, functools.partial(run_step, state))
    assert {name for name, value in state.classifier.model.named_parameters() if not value.requires_grad} == {
        "prep.conv.weight", "prep.norm.weight", "prep.norm.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("layer9",), "freeze has 'layer9'; the modules of this network are prep, layer1, layer2, layer3, head"),
        (("prep", "layer1", "layer2", "layer3", "head"), "at least one must train to the end"),
    ],
)
def test_modules_that_cannot_be_frozen_are_refused(config: TrainConfig, modules: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_state(config.replace(model="custom_resnet", freeze=modules, freeze_at=(0.5,) * len(modules)))
