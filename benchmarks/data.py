"""The time to write CIFAR-10 as .beton files, to open them, and to load an epoch of uint8 batches.

    python -m benchmarks.data --source $FASTCIFAR_DATA --out benchmarks/results/data-cpu.json

Writing goes from images in memory to verified files with manifests, as in `fastcifar write-beton`; the time to read the
source is recorded separately, and so is the loader's first epoch, which compiles FFCV's decoder.
"""

from __future__ import annotations

import collections
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, run_command, summarize, write_results
from fastcifar import create_loader
from fastcifar.data.images import Source
from fastcifar.data.manifest import open_beton
from fastcifar.data.sources import open_source
from fastcifar.data.writer import write_beton
from fastcifar.device import resolve_runtime
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Data:
    """Measure writing, opening and loading."""

    source: str = "auto"
    """Source of the images, as in `fastcifar write-beton --source`."""
    device: str = "cpu"
    """Device of the loader's batches: 'cpu', 'cuda', …"""
    rounds: int = 5
    """Measurements of each."""
    out: Path = RESULTS / "data.json"
    """The JSON to write."""


def main(settings: Data) -> None:
    runtime = resolve_runtime(RuntimeSettings(device=settings.device))
    start = time.perf_counter()
    source = open_source(settings.source)
    reading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / "train.beton"
        seconds: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(settings.rounds):
            seconds["write 50,000 and 10,000 images"].append(_timed(lambda: _write(source, Path(folder))))
            seconds["write the training images"].append(_timed(lambda: _write(source, Path(folder), ("train",))))
            seconds["open, with a check of the hash"].append(_timed(lambda: open_beton(beton)))
            with create_loader(beton, batch_size=512, train=True, device=runtime.device) as loader:
                for epoch in range(5):
                    name = "a later epoch" if epoch else "the first epoch"
                    batches = loader.batches(epoch)
                    seconds[name].append(_timed(lambda: collections.deque(batches, maxlen=0)))  # noqa: B023  called at once
        _, manifest = open_beton(beton)
    results: dict[str, Any] = {
        "benchmark": "data",
        **describe_environment(runtime, manifest),
        "read_source_seconds": reading,
        "runs": [{"part": name, "seconds": summarize(values)} for name, values in seconds.items()],
    }
    for run in results["runs"]:
        print(f"{run['part']:<32}{run['seconds']['median']:.3f} s")
    write_results(settings.out, results)


def _write(source: Source, folder: Path, splits: tuple[str, ...] = ("train", "test")) -> None:
    for split in splits:
        images = source.train if split == "train" else source.test
        write_beton(
            folder / f"{split}.beton", images.images, images.labels, class_names=source.class_names, name=source.name
        )


def _timed(work: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main, Data, __doc__)
