"""CUDA graphs: work of fixed shapes, captured once before the clock starts and then replayed with one launch.

One step of a small network is hundreds of kernels of a few microseconds each. A host cannot launch them as fast as a
GPU runs them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fastcifar.inference.model import ImageClassifier, LogitsFunction, pad_batch
from fastcifar.inference.tta import NO_TTA
from fastcifar.optim.schedule import lr_table, set_lr
from fastcifar.settings import TTASettings
from fastcifar.training.freezing import freeze
from fastcifar.training.metrics import StepMetrics
from fastcifar.training.state import TrainState
from fastcifar.training.step import StepFunction, StepVariant, step_variant, step_variants, train_step

WARMUP_ITERATIONS = 2
"""Calls before the capture, in which torch and cuDNN choose algorithms, compile, and allocate persistent buffers."""

T = TypeVar("T")


class CudaGraph(Generic[T]):
    """A captured function of tensors; later calls take tensors of the same shapes and replay the graph."""

    def __init__(
        self, function: Callable[..., T], inputs: Sequence[Tensor], *, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        """Warm up and capture `function`, which must not wait for the device, with `inputs` as example arguments.

        Both are done on `stream`. The graph's memory comes from `pool`, of `torch.cuda.graph_pool_handle`.
        """
        self._inputs = [example.clone() for example in inputs]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_ITERATIONS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self._result = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> T:
        """Replay the graph. The next replay of any graph in the pool may overwrite the result."""
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result


class GraphCapture:
    """Captures functions on one CUDA device. The graphs share memory, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):  # a stream belongs to the device that is current when it is created
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[..., T], inputs: Sequence[Tensor]) -> CudaGraph[T]:
        """Capture a function, with example arguments."""
        with torch.cuda.device(self._device):
            return CudaGraph(function, inputs, stream=self._stream, pool=self._pool)


Capture = Callable[[Callable[..., Any], Sequence[Tensor]], Callable[..., Any]]
"""Captures a function with example arguments, and returns the captured function, such as `GraphCapture`."""


def capture_train_steps(
    state: TrainState, images: Tensor, labels: Tensor, flip: Tensor | None, capture: Capture | None = None
) -> StepFunction:
    """Capture one graph per variant of the run's steps; return a function that replays a step's graph.

    Images, uint8 [B, 3, H, W], labels, int64 [B], and the flip mask, bool [B] or None, are a dummy batch. The state's
    counter must let no update through meanwhile (`NonFiniteCounter.no_updates`).
    """
    capture = capture or GraphCapture(state.runtime.device)
    table = lr_table(state.optimizer, state.total_steps, state.config.optim)
    for group in state.optimizer.param_groups:
        if "capturable" in group:  # torch's Adam: counts its steps on the device
            group["capturable"] = True
    state.classifier.train()
    masks = () if flip is None else (flip,)
    graphs: dict[StepVariant, Callable[..., StepMetrics]] = {}
    for variant in dict.fromkeys(step_variants(state.total_steps, state.config)):
        freeze(state.classifier.model, variant.frozen)
        step = functools.partial(_step_from_table, state, variant.size)
        graphs[variant] = capture(step, (images, labels, table[0], *masks))
        state.optimizer.zero_grad(set_to_none=True)
    set_lr(state.optimizer, 0, state.total_steps, state.config.optim)  # numbers again, for a checkpoint

    def run_step(images: Tensor, labels: Tensor, step: int, flip: Tensor | None = None) -> StepMetrics:
        graph = graphs[step_variant(step, state.total_steps, state.config)]
        return graph(images, labels, table[step], *(() if flip is None else (flip,)))

    return run_step


def _step_from_table(
    state: TrainState, size: int | None, images: Tensor, labels: Tensor, row: Tensor, *flip: Tensor
) -> StepMetrics:
    """`train_step` with the step's number and learning rates in a row of `lr_table`."""
    for group, lr in zip(state.optimizer.param_groups, row[1:], strict=True):
        group["lr"] = lr
    return train_step(state, images, labels, row[0].long(), size=size, flip=flip[0] if flip else None)


@torch.no_grad()
def capture_evaluations(
    classifier: ImageClassifier, images: Tensor, tta: TTASettings, capture: Capture | None = None
) -> LogitsFunction:
    """Capture the evaluation of a batch, without and with test-time augmentation; return a function that replays it.

    Images, uint8 [B, 3, H, W], are a dummy batch.
    """
    capture = capture or GraphCapture(classifier.runtime.device)
    count = torch.full((), len(images), device=images.device)
    classifier.train(False)
    graphs = {
        settings: capture(functools.partial(classifier.tta_logits, tta=settings), (images, count))
        for settings in dict.fromkeys((NO_TTA, tta))
    }

    def logits(images: Tensor, batch_size: int, tta: TTASettings = NO_TTA) -> Tensor:
        padded, count = pad_batch(images, batch_size)
        return graphs[tta](padded, count)[: len(images)].clone()  # the next replay would overwrite it

    return logits
