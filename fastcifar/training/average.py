"""Average the gradients of several processes while the backward pass computes them."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from fastcifar.config import TrainConfig
from fastcifar.inference.model import ImageClassifier
from fastcifar.parallel import Processes

_NAMES = ("forward_sync_buffers", "broadcast_buffers")
"""Names of the argument that lets the first process's buffers replace the others' before each step; torch is giving it
the first name instead of the second."""
_NAME = next(name for name in _NAMES if name in inspect.signature(DistributedDataParallel).parameters)


def average_gradients(classifier: ImageClassifier, config: TrainConfig, processes: Processes) -> None:
    """Let training steps call the network through DistributedDataParallel, if there are several processes.

    All start with the first one's weights and buffers. Then each has buffers of its own, until `average_buffers`.
    """
    if processes.count == 1:
        return
    own_buffers: dict[str, Any] = {_NAME: False}
    device = classifier.runtime.device
    classifier.trained = DistributedDataParallel(
        classifier.model,
        device_ids=[device] if device.type == "cuda" else None,
        **own_buffers,
        find_unused_parameters=bool(config.freezing.freeze),
    )
    if config.runtime.compress_gradients:
        classifier.trained.register_comm_hook(None, bf16_compress_hook)


@torch.no_grad()
def average_buffers(model: nn.Module, processes: Processes) -> None:
    """Replace running statistics by their mean over the processes, each of which has its own without sync_batchnorm."""
    if processes.count == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(processes.sum(buffer) / processes.count)
