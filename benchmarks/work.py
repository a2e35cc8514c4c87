"""What a training computes, beside what the course's does."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastcifar.training.freezing import freeze
from fastcifar.models.init import initialize
from fastcifar.training.state import TrainState
from fastcifar.models import model_from_config
from fastcifar.training.step import step_variants

ERA_EPOCH = 3 * 379.27e6 * 50_000
"""Multiply-adds of an epoch of `era`: forward and twice that backward, at full resolution."""


def epochs_worth(state: TrainState) -> float:
    """Multiply-adds of a run's forward and backward passes, in epochs of `era`.

    Those of convolutions and linear layers are counted, step by step as they run: of small images as of small ones, and
    no gradient that frozen parts spare. The optimizer's are not.
    """
    config, (height, _, channels) = state.config, state.manifest.image_shape
    model = model_from_config(config, len(state.manifest.class_names))
    initialize(model, config)
    model.to("meta").train()
    flops = 0
    for (size, frozen), steps in Counter(step_variants(state.total_steps, config)).items():
        freeze(model, frozen)
        side = min(size or height, height)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(config.data.batch_size, channels, side, side, device="meta")).sum().backward()
        flops += steps * counter.get_total_flops()
    return flops / 2 / ERA_EPOCH
