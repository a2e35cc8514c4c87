"""One of the processes that `benchmarks.scaling` times.

It reads requests as lines of JSON, {"work": NAME, "arguments": {…}}, and answers each with a line, {"seconds": …}. All
processes of a group begin a request together.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.harness import Block, timed
from fastcifar import parallel
from fastcifar.config import TrainConfig
from fastcifar.device import apply_process_settings, native_dtype, resolve_runtime
from fastcifar.models import model_from_config
from fastcifar.optim.muon import orthogonalize
from fastcifar.parallel import Processes
from fastcifar.training.loop import check_finite
from fastcifar.training.signals import GracefulStop
from fastcifar.training.state import create_state, init_whitening
from fastcifar.training.step import step_variants
from fastcifar.training.warmup import dummy_batch, warm_up

REPEATS = 10
"""Repetitions of an exchange in one request, whose median counts."""


class Worker:
    """Times training steps of a recipe, and exchanges between processes, in this process."""

    def __init__(self, processes: Processes, settings: dict[str, Any]) -> None:
        self._processes = processes
        self._steps: dict[tuple[int, bool], Callable[[], float]] = {}
        self.open(settings)

    def open(self, settings: dict[str, Any]) -> float:
        """Take the settings of another recipe."""
        self._steps.clear()
        self._config = TrainConfig.from_json(settings)
        apply_process_settings(self._config.runtime)
        self._runtime = resolve_runtime(self._config.runtime)
        return 0.0

    def train(self, batch_size: int, alone: bool) -> float:
        """Return the seconds of a training step, whose batch the processes share, or each has for itself (`alone`)."""
        key = (batch_size, alone)
        with parallel.alone() if alone else nullcontext():
            if key not in self._steps:
                self._steps[key] = _prepare_step(self._config.replace(batch_size=batch_size))
            self._wait_for_others()
            return self._steps[key]()

    def all_reduce(self, size: int) -> float:
        """Return the median seconds of an all-reduce of `size` bytes."""
        values = torch.zeros(max(1, size // 4), device=self._runtime.device)
        return self._median(partial(dist.all_reduce, values))

    def orthogonalize(self, share: bool) -> float:
        """Return the median seconds of the orthogonalisation of random filters, which the processes share or do not."""
        shapes = [each.shape for each in model_from_config(self._config.model, 10).parameters() if each.dim() == 4]
        filters = [torch.randn(shape, device=self._runtime.device) for shape in shapes]
        dtype = native_dtype(self._runtime.device) or torch.float32
        return self._median(partial(orthogonalize, filters, dtype, self._processes if share else parallel.ALONE))

    def _median(self, block: Block) -> float:
        block()
        self._wait_for_others()
        return statistics.median(timed(block, self._runtime) for _ in range(REPEATS))

    def _wait_for_others(self) -> None:
        if self._processes.count > 1:
            dist.barrier(self._processes.control)


def _prepare_step(config: TrainConfig) -> Callable[[], float]:
    """Return a function that trains, and returns the mean seconds of the run's steps.

    It runs one step of each kind, by image size and frozen modules, which counts as often as there are such steps. The
    images are on the device already; everything else is what the training loop does.
    """
    state = create_state(config)
    init_whitening(state.classifier.model, state)
    run_step, stop = warm_up(state).run_step, GracefulStop()
    images, labels, flip = dummy_batch(state, state.train_loader.own_batch_size)
    variants = step_variants(state.total_steps, config)
    counted = Counter(variants)

    def train(step: int) -> None:
        state.epoch_totals = state.epoch_totals.plus(run_step(images, labels, step, flip))
        stop.check(state.processes)

    def seconds() -> float:
        state.classifier.train()
        total = sum(
            count * timed(partial(train, variants.index(variant)), state.runtime) for variant, count in counted.items()
        )
        check_finite(state)
        return total / len(variants)

    return seconds


def main() -> None:
    """Answer requests until stdin ends; the first line has the settings of a recipe."""
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        settings = json.loads(sys.stdin.readline())
        with parallel.join(settings["device"]) as processes:
            worker = Worker(processes, settings)
            for line in sys.stdin:
                request = json.loads(line)
                seconds = getattr(worker, request["work"])(**request["arguments"])
                print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
