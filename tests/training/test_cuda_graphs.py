from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit, get_recipe
from fastcifar.cli import main
from fastcifar.device import Runtime, apply_process_settings, resolve_runtime
from fastcifar.optim.schedule import lr_table
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint
from fastcifar.runs.results import EpochResult, StepProgress
from fastcifar.settings import RuntimeSettings
from fastcifar.training import warmup
from fastcifar.training.cuda_graphs import GraphCapture, capture_evaluations, capture_train_steps
from fastcifar.training.freezing import freeze
from fastcifar.training.loop import run_epoch
from fastcifar.training.loss_scaling import INITIAL_SCALE
from fastcifar.training.metrics import StepMetrics
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import step_variant, train_step
from fastcifar.training.warmup import WarmUp, preserve_state
from tests.helpers import imitate_gpus, no_wait_for_the_device, tiny_state, write_pair


class StandInGraph:
    """Stands in for a CUDA graph on the CPU: warms up as often, and replays with the modules frozen at its capture."""

    def __init__(self, model: nn.Module, function: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.function = function
        self.trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
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


def create_or_tiny_state(run: TrainConfig, scale: float | None) -> TrainState:
    """The state of a run with this loss scale. CPUs are slow in float16, so the network is a tiny one then."""
    if scale is None:
        return create_state(run)
    state = tiny_state(run)
    state.scaler.load_state_dict({"scale": scale, "_growth_tracker": 0})
    return state


FLOAT16 = {"amp": True, "amp_dtype": "float16"}
STAGES = {"resize_sizes": (16,), "resize_fractions": (0.5,), "freeze": ("0",), "freeze_at": (0.7,)}
OVERFLOWS = 2.0**23
"""A loss scale at which the gradients overflow, but not after a few times halving it."""


@pytest.mark.parametrize(
    ("recipe", "changes", "scale"),
    [
        ("speedrun", {"amp": False}, None),
        ("era", {"amp": False}, None),
        ("era", {**FLOAT16, "l1": 1e-5}, OVERFLOWS),
        ("era", {**FLOAT16, "optimizer": "muon", "bias_lr": 0.1, "head_lr": 0.1, **STAGES}, OVERFLOWS),
    ],
)
def test_replayed_steps_train_like_eager_steps(
    config: TrainConfig, recipe: str, changes: dict[str, Any], scale: float | None
) -> None:
    shared = {"data_dir": config.data.data_dir, "batch_size": 50, "eval_batch_size": 40, "device": "cpu"}
    run = get_recipe(recipe, **shared, epochs=1.75, dynamics=True, **changes)
    eager = create_or_tiny_state(run, scale)
    step = functools.partial(float32_step, eager)
    expected = train_with(eager, WarmUp(run_step=step, logits=eager.classifier.fixed_batch_logits, seconds=0.0))

    state = create_or_tiny_state(run, scale)
    captured: list[StandInGraph] = []

    def capture(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> StandInGraph:
        captured.append(StandInGraph(state.classifier.model, function, inputs))
        return captured[-1]

    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    flip = torch.zeros(50, dtype=torch.bool) if run.augment.alternate_flip else None
    with preserve_state(state):
        logits = capture_evaluations(state.classifier, images[:40], run.tta, capture)
        evaluations = len(captured)
        replay = capture_train_steps(state, images, torch.zeros(50, dtype=torch.int64), flip, capture)
    assert scale is None or state.scaler.state_dict()["scale"] == scale, "the warm-up does not move the scale"
    results = train_with(state, WarmUp(run_step=replay, logits=logits, seconds=0.0))

    assert evaluations == 1 + (run.tta.tta != "none")
    assert len(captured) - evaluations >= len({*run.resize.resize_sizes, None}), "one graph per variant of the step"
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.train_loss == theirs.train_loss
        assert (ours.test_accuracy, ours.tta_accuracy) == (theirs.test_accuracy, theirs.tta_accuracy)
        assert ours.skipped_steps == 0
    weights = eager.classifier.model.state_dict()
    for name, tensor in state.classifier.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for ours, theirs in zip(
        *(vars(each.recorder.read(each.train_loader, 1)).values() for each in (state, eager)), strict=True
    ):
        assert len(ours) == 150, "of the last 0.75 epochs"
        assert np.array_equal(ours, theirs)
    assert state.scaler.state_dict() == eager.scaler.state_dict()
    assert scale is None or 1 < state.scaler.state_dict()["scale"] < scale, "some steps overflowed, and not all"
    assert scale is None or state.scaler.state_dict()["_growth_tracker"] > 0


def test_a_gpu_without_bfloat16_trains_in_float16_with_cuda_graphs(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imitate_gpus(monkeypatch, (7, 5))
    captured: list[StandInGraph] = []

    def on_the_cpu(settings: RuntimeSettings) -> Runtime:
        return dataclasses.replace(resolve_runtime(settings), device=torch.device("cpu"))

    def stand_in(model: nn.Module) -> Callable[..., StandInGraph]:
        return lambda *arguments: captured.append(StandInGraph(model, *arguments)) or captured[-1]

    monkeypatch.setattr("fastcifar.training.state.resolve_runtime", on_the_cpu)
    monkeypatch.setattr("fastcifar.device.apply_process_settings", lambda settings: None)
    for module, function in ((warmup, capture_train_steps), (warmup, capture_evaluations)):
        monkeypatch.setattr(
            module,
            function.__name__,
            lambda state, *batch, function=function: function(
                state, *batch, capture=stand_in(getattr(state, "classifier", state).model)
            ),
        )
    sizes = ["--batch-size", "20", "--eval-batch-size", "45", "--widths", "8", "16", "16", "--epochs", "1"]
    paths = ["--data-dir", str(betons), "--run-dir", str(tmp_path / "run"), "--no-report"]
    assert main(["train", "--recipe", "speedrun", *sizes, *paths]) == 0
    output = capsys.readouterr().out
    assert "float16 (AMP, no bfloat16 on sm_75), channels-last, CUDA graphs" in output
    assert len(captured) > 2
    checkpoint = read_checkpoint(checkpoint_path(tmp_path / "run", "last"))
    assert checkpoint["precision"] == "float16"
    assert checkpoint["scaler"] == {"scale": INITIAL_SCALE, "_growth_tracker": 10}, "the warm-up is not counted"


class _Recorder:
    """Stands in for torch.cuda: keeps the current device, and notes on which one each call is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.calls = 0, [("", -1)]
        names = ("Stream", "stream", "current_stream", "CUDAGraph", "graph", "graph_pool_handle")
        for name in names:
            monkeypatch.setattr(torch.cuda, name, functools.partial(self._call, name))
        monkeypatch.setattr(torch.cuda, "device", self._device)

    def _call(self, name: str, *_: Any, **options: Any) -> Any:
        self.calls.append((name, self.current))
        assert name != "graph" or "stream" in options, "torch's own stream is on the device that captured first"
        return MagicMock()

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        self.current, before = device.index, self.current
        yield
        self.current = before


def test_graphs_are_captured_and_streams_created_on_the_device_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, called = _Recorder(monkeypatch), []
    captured = GraphCapture(torch.device("cuda", 1))(lambda value: called.append(value) or value + 1, [torch.ones(2)])
    assert len(called) == 3
    assert {name for name, _ in recorder.calls[1:]} == {
        "Stream", "stream", "current_stream", "CUDAGraph", "graph", "graph_pool_handle",
    }  # fmt: skip
    assert {device for _, device in recorder.calls[1:]} == {1}
    assert recorder.current == 0
    assert torch.equal(captured(torch.zeros(2)), torch.full((2,), 2.0)), "the result of the capture, overwritten later"
    assert torch.equal(called[-1], torch.zeros(2)), "new inputs are copied to where the graph reads them"


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("recipe", ["speedrun", "era-fast", "era"])
def test_captured_steps_on_the_gpu_train_like_eager_steps(
    tmp_path: Path, recipe: str, dtype: Any, compiled: bool
) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"data_dir": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda"}
    run = get_recipe(recipe, **shared, cache_on_device=True, compile=compiled, deterministic=True)
    run = run.replace(amp=True, amp_dtype=dtype)
    apply_process_settings(run.runtime)
    losses = {}
    for graphs in (False, True):
        results = fit(run.replace(cuda_graphs=graphs))
        losses[graphs] = [result.train_loss for result in results]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.gpu
def test_a_scale_that_overflows_falls_alike_with_and_without_graphs(tmp_path: Path) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"data_dir": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda"}
    scales = {}
    for graphs in (False, True):
        with create_state(get_recipe("speedrun", **shared, amp_dtype="float16", cuda_graphs=graphs)) as state:
            state.scaler.load_state_dict({"scale": 2.0**40, "_growth_tracker": 0})
            results = fit(state)
            scales[graphs] = state.scaler.state_dict()["scale"]
        assert [result.skipped_steps for result in results] == [0, 0]
    assert scales[True] == scales[False] < 2.0**40


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_graphs_are_captured_on_the_second_gpu(tmp_path: Path, dtype: Any) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"data_dir": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda:1"}
    allocated = torch.cuda.memory_allocated(0)
    assert len(fit(get_recipe("speedrun", **shared, amp_dtype=dtype))) == 2
    assert torch.cuda.memory_allocated(0) == allocated


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("recipe", ["speedrun", "era"])
def test_the_host_never_waits_for_the_gpu_within_an_epoch(
    tmp_path: Path, recipe: str, dtype: Any, graphs: bool
) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"batch_size": 50, "eval_batch_size": 100, "epochs": 2, "device": "cuda", "amp": True, "amp_dtype": dtype}
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
