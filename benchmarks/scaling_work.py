"""The work of a recipe's training steps: operations, and bytes of gradients in the order of their computation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling_model import Bucket, fill_buckets
from fastcifar.config import TrainConfig
from fastcifar.models import model_from_config
from fastcifar.models.init import initialize
from fastcifar.training.freezing import freeze
from fastcifar.training.step import step_variants


@dataclass(frozen=True)
class Stage:
    """Steps of a run that do the same work: with one image size, and the same frozen modules."""

    steps: int
    forward: float
    """FLOPs of the forward pass, per image."""
    backward: float
    """FLOPs of the backward pass, per image."""
    buckets: Sequence[Bucket]
    """The buckets of gradients that several processes average."""


def run_stages(config: TrainConfig, *, images: int, side: int = 32, classes: int = 10) -> list[Stage]:
    """Return the stages of a run, for a training set of so many square images with this side."""
    model = model_from_config(config.model, classes)
    initialize(model, config.init)
    model.to("meta").train()
    total_steps = max(1, round(config.epochs * (images // config.data.batch_size)))
    counted = Counter(step_variants(total_steps, config))
    by_readiness = not config.freezing.freeze  # as `average_gradients` chooses
    return [
        _stage(model, steps, min(size or side, side), frozen, by_readiness) for (size, frozen), steps in counted.items()
    ]


def _stage(model: nn.Module, steps: int, side: int, frozen: tuple[str, ...], by_readiness: bool) -> Stage:
    """Count the work of a stage. DistributedDataParallel also averages the zeros of frozen parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    freeze(model, frozen)
    finished: dict[nn.Parameter, int] = {}
    with FlopCounterMode(display=False) as counter:
        loss = model(torch.empty(2, 3, side, side, device="meta")).sum()
        forward = counter.get_total_flops()
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda done: finished.update({done: counter.get_total_flops() - forward})
            )
            for parameter in parameters
            if parameter.requires_grad
        ]
        loss.backward()
        backward = counter.get_total_flops() - forward
    for hook in hooks:
        hook.remove()
    gradients = [Bucket(each.numel() * each.element_size(), finished.get(each, 0) / backward) for each in parameters]
    buckets = fill_buckets(gradients, by_readiness=by_readiness)
    for parameter in parameters:
        parameter.requires_grad_()
    return Stage(steps, forward / 2, backward / 2, buckets)
