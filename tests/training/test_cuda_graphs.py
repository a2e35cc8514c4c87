from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit, get_recipe
from fastcifar.device import apply_process_settings
from fastcifar.optim.schedule import lr_table
from fastcifar.runs.results import EpochResult, StepProgress
from fastcifar.training.cuda_graphs import capture_evaluations, capture_train_steps
from fastcifar.training.freezing import freeze
from fastcifar.training.loop import run_epoch
from fastcifar.training.metrics import StepMetrics
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import step_variant, train_step
from fastcifar.training.warmup import WarmUp, preserve_state
from tests.helpers import no_wait_for_the_device, write_pair


class StandInGraph:
    """Stands in for a CUDA graph on the CPU: warms up as often, and replays with the modules frozen at its capture."""

    def __init__(self, parameters: list[nn.Parameter], function: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.function = function
        self.trained = [(parameter, parameter.requires_grad) for parameter in parameters]
        for _ in range(3):
            function(*inputs)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        for parameter, trained in self.trained:
            parameter.requires_grad_(trained)
        return self.function(*(each.clone() for each in inputs))


def float32_step(
    state: TrainState, images: torch.Tensor, labels: torch.Tensor, step: int, flip: torch.Tensor | None
) -> StepMetrics:
    """`run_step` with learning rates in float32, as a graph has them; rounding would tell the runs apart."""
    size, frozen = step_variant(step, state.total_steps, state.config)
    table = lr_table(state.optimizer, state.total_steps, state.config.optim)
    for group, lr in zip(state.optimizer.param_groups, table[step, 1:], strict=True):
        group["lr"] = lr
    freeze(state.classifier.model, frozen)
    return train_step(state, images, labels, step, size=size, flip=flip)


def train_with(state: TrainState, warmed_up: WarmUp) -> list[EpochResult]:
    results = []
    while state.epochs_done < state.epochs:
        results.append(run_epoch(state, warmed_up))
    return results


@pytest.mark.parametrize("recipe", ["speedrun", "era"])
def test_replayed_steps_train_like_eager_steps(config: TrainConfig, recipe: str) -> None:
    shared = {"data_dir": config.data.data_dir, "batch_size": 50, "eval_batch_size": 40, "device": "cpu"}
    run = get_recipe(recipe, **shared, epochs=1.75, amp=False)
    eager = create_state(run)
    step = functools.partial(float32_step, eager)
    expected = train_with(eager, WarmUp(run_step=step, logits=eager.classifier.fixed_batch_logits, seconds=0.0))

    state = create_state(run)
    captured: list[StandInGraph] = []

    def capture(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> StandInGraph:
        captured.append(StandInGraph(list(state.classifier.model.parameters()), function, inputs))
        return captured[-1]

    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    flip = torch.zeros(50, dtype=torch.bool) if run.augment.alternate_flip else None
    with preserve_state(state):
        logits = capture_evaluations(state.classifier, images[:40], run.tta, capture)
        evaluations = len(captured)
        replay = capture_train_steps(state, images, torch.zeros(50, dtype=torch.int64), flip, capture)
    results = train_with(state, WarmUp(run_step=replay, logits=logits, seconds=0.0))

    assert evaluations == 1 + (run.tta.tta != "none")
    assert len(captured) - evaluations >= len({*run.resize.resize_sizes, None}), "one graph per variant of the step"
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.train_loss == theirs.train_loss
        assert (ours.test_accuracy, ours.tta_accuracy) == (theirs.test_accuracy, theirs.tta_accuracy)
    weights = eager.classifier.model.state_dict()
    for name, tensor in state.classifier.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", ["speedrun", "era-fast", "era"])
def test_captured_steps_on_the_gpu_train_like_eager_steps(tmp_path: Path, recipe: str, compiled: bool) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"data_dir": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda"}
    run = get_recipe(recipe, **shared, cache_on_device=True, compile=compiled, deterministic=True)
    apply_process_settings(run.runtime)
    losses = {}
    for graphs in (False, True):
        results = fit(run.replace(cuda_graphs=graphs))
        losses[graphs] = [result.train_loss for result in results]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("recipe", ["speedrun", "era"])
def test_the_host_never_waits_for_the_gpu_within_an_epoch(tmp_path: Path, recipe: str, graphs: bool) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"batch_size": 50, "eval_batch_size": 100, "epochs": 2, "device": "cuda", "amp": True}
    run = get_recipe(recipe, data_dir=betons, **shared, cuda_graphs=graphs)
    with ExitStack() as stack:

        def watch(progress: StepProgress) -> None:
            if progress.step == 2:
                stack.enter_context(no_wait_for_the_device())
            if progress.step == progress.steps:
                stack.close()

        assert len(fit(run, on_step=watch)) == 2


@pytest.mark.gpu
def test_compiled_training_on_the_gpu_learns(config: TrainConfig, tmp_path: Path) -> None:
    betons = write_pair(tmp_path, train=2000, test=500)
    run = config.replace(data_dir=betons, device="cuda", amp=True, compile=True, epochs=5, batch_size=100)
    assert fit(run)[-1].test_accuracy > 0.5
