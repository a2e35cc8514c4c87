from __future__ import annotations

import itertools

import pytest
import torch

from fastcifar import TrainConfig, fit
from fastcifar.errors import ConfigError
from fastcifar.runs.results import StepProgress
from fastcifar.training.loop import train_epoch
from fastcifar.training.state import create_state


def test_frozen_parts_stop_where_they_are_and_the_others_go_on(config: TrainConfig) -> None:
    parts = {"freeze": ("prep", "layer1"), "freeze_at": (0.25, 0.75)}
    config = config.replace(model="custom_resnet", epochs=2, weight_decay=0.1, **parts)
    state = create_state(config)
    steps: list[dict[str, torch.Tensor]] = []

    def keep(_: StepProgress) -> None:
        steps.append({name: value.detach().clone() for name, value in state.classifier.model.named_parameters()})

    fit(state, on_step=keep)
    assert len(steps) == 12
    for part, last in (("prep", 3), ("layer1", 9), ("layer3", 12), ("head", 12)):
        names = [name for name in steps[0] if name.startswith(part)]
        assert names
        for number, (before, after) in enumerate(itertools.pairwise(steps), start=2):
            moved = any(not torch.equal(before[name], after[name]) for name in names)
            assert moved == (number <= last), f"{part} in step {number}"


def test_a_run_goes_on_with_the_parts_frozen_that_were(config: TrainConfig) -> None:
    config = config.replace(model="custom_resnet", freeze=("prep",), freeze_at=(0.25,))
    state = create_state(config)
    state.epochs_done = 1
    train_epoch(state)
    assert {name for name, value in state.classifier.model.named_parameters() if not value.requires_grad} == {
        "prep.conv.weight", "prep.norm.weight", "prep.norm.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("layer9",), "freeze has 'layer9'; this network's parts are prep, layer1, layer2, layer3, head"),
        (("prep", "layer1", "layer2", "layer3", "head"), "one must train to the end"),
    ],
)
def test_parts_that_cannot_be_frozen_are_refused(config: TrainConfig, parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_state(config.replace(model="custom_resnet", freeze=parts, freeze_at=(0.5,) * len(parts)))
