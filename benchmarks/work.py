"""The compute of a training, relative to the recipe `era`."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastcifar.models import model_from_config
from fastcifar.models.init import initialize
from fastcifar.training.freezing import freeze
from fastcifar.training.state import TrainState
from fastcifar.training.step import step_variants

ERA_EPOCH = 3 * 379.27e6 * 50_000
"""Multiply-adds of one epoch of `era`: the forward pass, and twice that for the backward pass, at full resolution."""


def era_epoch_equivalents(state: TrainState) -> float:
    """Multiply-adds of a run's forward and backward passes, divided by those of one epoch of `era`.

    Counts convolutions and linear layers at the resolution that each step really uses, without the gradients that
    frozen modules skip. The optimizer's operations are not counted.
    """
    config, (height, _, channels) = state.config, state.manifest.image_shape
    model = model_from_config(config.model, len(state.manifest.class_names))
    initialize(model, config.init)
    model.to("meta").train()
    flops = 0
    for (size, frozen), steps in Counter(step_variants(state.total_steps, config)).items():
        freeze(model, frozen)
        side = min(size or height, height)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(config.data.batch_size, channels, side, side, device="meta")).sum().backward()
        flops += steps * counter.get_total_flops()
    return flops / 2 / ERA_EPOCH
