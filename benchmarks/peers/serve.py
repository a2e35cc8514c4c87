"""Imported by a project's patched script: run the script on a CPU, too, and train on request."""

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = torch.device(sys.argv[1])
length = float(sys.argv[2])
CONVERT = {"float16": "half", "bfloat16": "bfloat16", "float32": "float"}[sys.argv[3]]
"""The method that converts a tensor or a module to the precision of this process."""


class HostEvent:
    """The two methods of a CUDA event, with the host's clock."""

    def __init__(self, enable_timing: bool = True) -> None:
        pass

    def record(self) -> None:
        """Record the time."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: "HostEvent") -> float:
        """Return the milliseconds between this event and a later one."""
        return 1e3 * (later.seconds - self.seconds)


if DEVICE.type == "cpu":  # another precision in place of float16, nothing compiled, the host's clock
    for owner, name, value in (
        (torch.Tensor, "half", getattr(torch.Tensor, CONVERT)),
        (torch.Tensor, "bfloat16", getattr(torch.Tensor, CONVERT)),
        (torch.nn.Module, "half", getattr(torch.nn.Module, CONVERT)),
        (torch.Tensor, "cuda", lambda tensor: tensor),
        (torch.nn.Module, "cuda", lambda module: module),
        (torch, "compile", lambda function=None, **_: function or (lambda function: function)),
        (torch.nn.Module, "_orig_mod", property(lambda module: module)),  # of a compiled module
        (torch.Tensor, "pin_memory", lambda tensor: tensor),
        (torch.cuda, "Event", HostEvent),
        (torch.cuda, "synchronize", lambda *_: None),
    ):
        setattr(owner, name, value)


def epochs() -> float:
    """Return the number of epochs to train."""
    return length


def serve(main: Callable[..., Any], loader: Any, *arguments: Any) -> None:
    """Train for each line "EPOCHS SEED" on stdin, and print a JSON line; "ready" is answered after the warm-up.

    `main(run, *arguments)` returns the accuracies with and without test-time augmentation, and its clock's seconds
    before (or None) and after the evaluation. A GPU's warm-up is a whole run, "warmup": it compiles what the script
    compiles, and cuDNN chooses its algorithms.
    """
    global length
    if DEVICE.type == "cuda":
        main("warmup", *arguments)
    loading: list[float] = []
    load = loader.__init__

    def timed(self: Any, path: str, train: bool = True, **options: Any) -> None:
        start = time.perf_counter()
        load(self, path, train, **options)
        torch.cuda.synchronize()
        if train:
            loading.append(time.perf_counter() - start)

    loader.__init__ = timed
    for line in sys.stdin:
        if line.strip() == "ready":
            print("{}", flush=True)
            continue
        length, seed = float(line.split()[0]), int(line.split()[1])
        loading.clear()
        torch.manual_seed(seed)
        random.seed(seed)  # airbench96_faster draws torch's seeds from it
        tta, plain, training, total = main(seed, *arguments)
        before = loading[0]  # a later one, for the proxy of airbench96_faster, is on the script's own clock
        result = {"test_accuracy": plain, "tta_accuracy": tta, "final_accuracy": tta, "load_seconds": before}
        result["train_seconds"] = None if training is None else before + training
        result["tta_seconds"] = None if training is None else total - training
        print("\n" + json.dumps({**result, "seconds": before + total}), flush=True)
