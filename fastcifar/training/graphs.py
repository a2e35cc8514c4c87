"""Work of fixed shapes as CUDA graphs: recorded once, before the clock, then launched as one.

A small network's step is hundreds of kernels of a few microseconds each, more than a host can launch in the time that
a GPU takes for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

REHEARSALS = 2
"""Calls before a recording, in which torch and cuDNN choose algorithms, compile, and make their lasting buffers."""


class Recorded:  # only on a GPU
    """A function from tensors to a tensor, called with others of the same shapes from then on."""

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], pool: Any) -> None:
        """Rehearse and record it.

        Args:
            function: waits for nothing, and moves what it moves in place.
            inputs: examples of its arguments, on the device.
            pool: memory of graphs that never run side by side, from `torch.cuda.graph_pool_handle`.
        """
        self._inputs = [example.clone() for example in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(REHEARSALS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._result = function(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The result, which the next call of any recording in the pool may write over."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result
