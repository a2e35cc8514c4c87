"""The speed of each part of a training step: loader, augmentation, model step and whole step, in one process.

    python -m benchmarks.throughput --batch-sizes 512 --out benchmarks/results/throughput-cpu.json

For each batch size the parts are timed in blocks of steps, in turn, so that a change of the machine's speed affects all
of them. The model step is zero_grad, forward, loss, backward and optimizer step on a batch that is already normalised;
the whole step is the one that `fit` runs. FLOPs are two per multiply-add, counted by torch on the network, three times
the forward pass for a step. The ceiling is a bfloat16 product of two square matrices on the same device. The model step
is also timed in float32 and contiguous memory format, PyTorch's defaults.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import RESULTS, Block, run_command, summarize, time_interleaved, without_paths, write_results
from fastcifar import get_recipe
from fastcifar.data.ffcv_compat import Batch
from fastcifar.data.loader import BetonLoader
from fastcifar.runs.folder import describe_environment
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import train_step


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Measure loader, augmentation, model step and whole step."""

    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    batch_sizes: tuple[int, ...] = (512,)
    """Images per step; each value is measured."""
    compile: bool = False
    """Compile network and augmentation."""
    steps: int = 2
    """Steps in a block."""
    rounds: int = 5
    """Blocks of each part that are counted."""
    matrix: int = 4096
    """Rows and columns of the matrices whose product gives the ceiling."""
    out: Path = RESULTS / "throughput.json"
    """The JSON to write."""


def main(settings: Throughput) -> None:
    config = get_recipe("era", data_dir=settings.data_dir, device=settings.device, amp=True, compile=settings.compile)
    results: dict[str, Any] = {}
    for batch_size in settings.batch_sizes:
        state = create_state(config.replace(batch_size=batch_size))
        seconds, step_flops = measure(state, settings)
        results = results or {
            "benchmark": "throughput",
            **describe_environment(state.runtime, state.manifest),
            "config": without_paths(config),
            "settings": {"steps": settings.steps, "rounds": settings.rounds, "matrix": settings.matrix},
            "figures": {},
            "runs": [],
        }
        figures = summarize_runs(seconds, batch_size, step_flops, 2 * settings.matrix**3)
        results["figures"][str(batch_size)] = figures
        results["runs"] += [
            {"batch_size": batch_size, "part": name, "seconds": summarize(values)} for name, values in seconds.items()
        ]
        print_table(results, batch_size)
        write_results(settings.out, results)


def measure(whole: TrainState, settings: Throughput) -> tuple[dict[str, list[float]], float]:
    """Seconds per step of each part in each round, at the batch size of `whole`, and the FLOPs of one step."""
    config = whole.config
    torch_defaults = config.replace(amp=False, channels_last=False, compile=False)
    model = create_state(config, augmentation=nn.Identity())
    plain = create_state(torch_defaults, augmentation=nn.Identity())
    loader = create_state(config).train_loader
    batches = _endless(whole.train_loader)
    images, labels = next(batches)
    whole.classifier.train(False)
    normalized = whole.classifier.augmentation(images)
    contiguous = normalized.contiguous()
    matrix = torch.randn(settings.matrix, settings.matrix, device=images.device, dtype=torch.bfloat16)
    for state in (whole, model, plain):
        state.classifier.train()

    def steps(step: Callable[[], object]) -> Block:
        def block() -> None:
            for _ in range(settings.steps):
                step()

        return block

    seconds = time_interleaved(
        {
            "loader": lambda: collections.deque(loader.batches(), maxlen=0),
            "matrix product": steps(lambda: matrix @ matrix),
            "augmentation": steps(lambda: whole.classifier.augmentation(images)),
            "model step": steps(lambda: train_step(model, normalized, labels)),
            "whole step": steps(lambda: train_step(whole, *next(batches))),
            "plain model step": steps(lambda: train_step(plain, contiguous, labels)),
        },
        rounds=settings.rounds,
        runtime=whole.runtime,
    )
    batches.close()
    per_block = {"loader": len(loader)}
    by_step = {name: [s / per_block.get(name, settings.steps) for s in values] for name, values in seconds.items()}
    return by_step, train_flops(model, normalized)


def train_flops(state: TrainState, images: torch.Tensor) -> float:
    """FLOPs of one training step: two per multiply-add, three times those of the forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        state.classifier.model(images.float())
    return 3.0 * counter.get_total_flops()


def summarize_runs(
    seconds: dict[str, list[float]], batch_size: int, step_flops: float, matrix_flops: float
) -> dict[str, Any]:
    """Images/s and GFLOP/s of each part, and ratios of parts, computed from medians."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ceiling = matrix_flops / median["matrix product"] / 1e9
    gflops = {name: step_flops / median[name] / 1e9 for name in ("model step", "whole step", "plain model step")}
    images_per_second = {name: batch_size / median[name] for name in median if name != "matrix product"}
    return {
        "images_per_second": images_per_second,
        "gflop_per_second": {"matrix product": ceiling, **gflops},
        "fraction_of_ceiling": {name: value / ceiling for name, value in gflops.items()},
        "whole_relative_to_model": median["whole step"] / median["model step"],
        "plain_relative_to_model": median["plain model step"] / median["model step"],
        "step_gflop": step_flops / 1e9,
    }


def print_table(results: dict[str, Any], batch_size: int) -> None:
    """Print the results for one batch size as a table."""
    figures = results["figures"][str(batch_size)]
    table = Table("part", "median seconds", "images/s", "GFLOP/s", "relative to the ceiling")
    for run in results["runs"]:
        if run["batch_size"] != batch_size:
            continue
        name = run["part"]
        table.add_row(
            name,
            f"{run['seconds']['median']:.4g}",
            _cell(figures["images_per_second"], name, ",.0f"),
            _cell(figures["gflop_per_second"], name, ",.0f"),
            _cell(figures["fraction_of_ceiling"], name, ".1%"),
        )
    console = Console(highlight=False)
    console.print(f"{results['device']}; {results['precision']}; batch {batch_size}")
    console.print(table)
    console.print(f"whole step / model step: {figures['whole_relative_to_model']:.3f}")
    console.print(f"float32, contiguous model step / model step: {figures['plain_relative_to_model']:.2f}")


def _cell(values: dict[str, float], name: str, form: str) -> str:
    return format(values[name], form) if name in values else ""


def _endless(loader: BetonLoader) -> Generator[Batch, None, None]:
    while True:
        yield from loader.batches()


if __name__ == "__main__":
    run_command(main, Throughput, __doc__)
