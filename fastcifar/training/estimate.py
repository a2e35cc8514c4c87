"""An estimate of how long a run will take on the CPU, from a few steps with small batches before it starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import torch

from fastcifar import clock
from fastcifar.training.freezing import freeze
from fastcifar.training.state import TrainState
from fastcifar.training.step import StepVariant, step_variants, train_step
from fastcifar.training.warmup import dummy_batch, preserve_state

BUDGET_SECONDS = 2.0
"""Time for all measurements together. A slow machine takes longer, since each is made at least once."""
FIRST_BATCH = 16
"""Images in the first batch that is measured; it shows how many more are affordable."""


def estimate_seconds(state: TrainState) -> float | None:
    """Estimate the seconds of the steps and evaluations that are left of a run, without changing its state.

    Each variant of a step is measured with two batches that are smaller than the run's, and the time of the whole batch
    is a linear function of its size. None for a GPU, where a run is either short or better measured by its first epoch.
    """
    if state.runtime.device.type != "cpu":
        return None
    first = state.epoch_first_step + state.epoch_steps_done
    steps = Counter(step_variants(state.total_steps, state.config)[first:])
    evaluations = state.epochs - state.epochs_done
    budget = BUDGET_SECONDS / (len(steps) + 1)
    with preserve_state(state), torch.compiler.set_stance("force_eager"):
        seconds = evaluations * _evaluation_seconds(state, budget)
        for variant, count in steps.items():
            seconds += count * _step_seconds(state, variant, budget)
    return seconds


def _step_seconds(state: TrainState, variant: StepVariant, budget: float) -> float:
    freeze(state.classifier.model, variant.frozen)
    state.classifier.train()

    def train(count: int) -> None:
        images, labels, flip = dummy_batch(state, count)
        train_step(state, images, labels, size=variant.size, flip=flip)

    return _extrapolate(train, state.config.data.batch_size, budget)


@torch.no_grad()
def _evaluation_seconds(state: TrainState, budget: float) -> float:
    state.classifier.train(False)

    def evaluate(count: int) -> None:
        state.classifier.fixed_batch_logits(dummy_batch(state, count)[0], count)

    batch_size = min(state.test_loader.batch_size, state.test_loader.samples)
    return _extrapolate(evaluate, batch_size, budget) * state.test_loader.samples / batch_size


def _extrapolate(work: Callable[[int], None], count: int, budget: float) -> float:
    """Return the seconds that `work` takes for `count` images, from measurements of about `budget` seconds."""
    small = min(FIRST_BATCH, count)
    work(small)  # the first call is slower
    seconds = _time(work, small)
    affordable = small * math.floor((budget / seconds - 3) / 2)  # the measurements take 3 · small and 2 · large
    large = min(count, affordable)
    if large < 2 * small:
        return seconds * count / small
    large_seconds = _time(work, large)
    per_image = max(0.0, large_seconds - seconds) / (large - small)
    return large_seconds + (count - large) * per_image


def _time(work: Callable[[int], None], count: int) -> float:
    """Return the shorter time of two calls."""
    seconds = []
    for _ in range(2):
        start = clock.now()
        work(count)
        seconds.append(clock.now() - start)
    return min(seconds)
