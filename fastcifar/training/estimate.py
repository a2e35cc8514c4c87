"""An estimate of how long a run will take on the CPU, from a few steps with small batches before it starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from fastcifar import clock
from fastcifar.training.freezing import freeze
from fastcifar.training.state import TrainState
from fastcifar.training.step import StepVariant, step_variants, train_step
from fastcifar.training.warmup import dummy_batch, preserve_state

BUDGET_SECONDS = 1.0
"""Time for all measurements together, and at most a fiftieth of the run. A slow machine takes longer, since each
measurement is made with `FIRST_BATCH` images at least."""
FIRST_BATCH = 16
"""Images in the first batch that is measured; it shows how many more are affordable."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A part of a run: `compute` is a function of the number of images, called `calls` times with `images` each."""

    compute: Callable[[int], None]
    images: int
    calls: float


def estimate_seconds(state: TrainState) -> float | None:
    """Estimate the seconds of the steps and evaluations that are left of a run, without changing its state.

    Steps are measured with two batches that are smaller than the run's, and the time of the whole batch is a linear
    function of its size. Those at several image sizes are measured at one of them; their time is in proportion to the
    pixels. None for a GPU, where a run is either short or better measured by its first epoch,
    and for several processes, which wait for each other.
    """
    if state.runtime.device.type != "cpu" or state.processes.count > 1:
        return None
    works = [_evaluations(state), *_steps(state)]
    with preserve_state(state), _eagerly(state):
        measured = [(work, _time_small(work)) for work in works]
        rough = sum(work.calls * _scaled(work, seconds) for work, seconds in measured)
        budget = min(BUDGET_SECONDS, rough / 50) / len(works)
        return sum(work.calls * _time_whole(work, seconds, budget) for work, seconds in measured)


def _eagerly(state: TrainState) -> AbstractContextManager[object]:
    """Run compiled functions eagerly in the block, instead of compiling them for the small batches."""
    compiles = state.runtime.compile_mode is not None
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def _steps(state: TrainState) -> Iterator[_Work]:
    first = state.epoch_first_step + state.epoch_steps_done
    variants = Counter(step_variants(state.total_steps, state.config)[first:])

    def train(variant: StepVariant, count: int) -> None:
        freeze(state.classifier.model, variant.frozen)
        state.classifier.train()
        images, labels, flip = dummy_batch(state, count)
        train_step(state, images, labels, size=variant.size, flip=flip)

    for frozen in dict.fromkeys(variant.frozen for variant in variants):
        alike = [variant for variant in variants if variant.frozen == frozen]
        pixels = {variant: variants[variant] * _pixels(state, variant) for variant in alike}
        longest = max(pixels, key=lambda variant: pixels[variant])
        calls = sum(pixels.values()) / _pixels(state, longest)
        yield _Work(compute=partial(train, longest), images=state.config.data.batch_size, calls=calls)


def _pixels(state: TrainState, variant: StepVariant) -> int:
    """Return the number of pixels of an image in a step."""
    height, width, _ = state.manifest.image_shape
    return height * width if variant.size is None else variant.size**2


def _evaluations(state: TrainState) -> _Work:
    @torch.no_grad()
    def evaluate(count: int) -> None:
        state.classifier.train(False)
        state.classifier.fixed_batch_logits(dummy_batch(state, count)[0], count)

    samples = state.test_loader.samples
    images = min(state.test_loader.batch_size, samples)
    return _Work(compute=evaluate, images=images, calls=(state.epochs - state.epochs_done) * samples / images)


def _time_small(work: _Work) -> float:
    """Return the seconds of a call with `FIRST_BATCH` images."""
    count = min(FIRST_BATCH, work.images)
    work.compute(count)  # the first call is slower
    return _time(work, count)


def _scaled(work: _Work, seconds: float) -> float:
    """Return the seconds of a whole call, in proportion to those of a small one."""
    return seconds * max(1.0, work.images / FIRST_BATCH)


def _time_whole(work: _Work, small_seconds: float, budget: float) -> float:
    """Return the seconds of a whole call, from another measurement with as many images as the budget allows."""
    affordable = FIRST_BATCH * math.floor(budget / (2 * small_seconds))
    count = min(work.images, affordable)
    if count < 2 * FIRST_BATCH:
        return _scaled(work, small_seconds)
    seconds = _time(work, count)
    per_image = max(0.0, seconds - small_seconds) / (count - FIRST_BATCH)
    return seconds + (work.images - count) * per_image


def _time(work: _Work, count: int) -> float:
    """Return the shorter time of two calls."""
    seconds = []
    for _ in range(2):
        start = clock.now()
        work.compute(count)
        seconds.append(clock.now() - start)
    return min(seconds)
