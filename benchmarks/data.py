"""How long the data take: writing CIFAR-10 as .beton files, opening them, and an epoch of uint8 batches.

    python -m benchmarks.data --source $FASTCIFAR_DATA --out benchmarks/results/data-cpu.json

Writing is from the images in memory to verified files with their manifests, as `fastcifar write-beton` does; reading
the source is given apart. The loader's first epoch, which compiles FFCV's decoder, is given apart from the others.
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
from fastcifar import create_loader, get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.data.writer import write_beton
from fastcifar.data.images import Source
from fastcifar.data.sources import open_source
from fastcifar.runs.folder import describe_environment
from fastcifar.device import resolve_runtime


@dataclass(frozen=True, kw_only=True)
class Data:
    """Measure writing, opening and loading."""

    source: str = "auto"
    """As `fastcifar write-beton --source`."""
    device: str = "cpu"
    """Where the loader's batches go."""
    rounds: int = 5
    """How often each is measured."""
    out: Path = RESULTS / "data.json"
    """The JSON to write."""


def main(settings: Data) -> None:
    runtime = resolve_runtime(get_recipe("era", device=settings.device))
    start = time.perf_counter()
    source = open_source(settings.source)
    reading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / "train.beton"
        seconds: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(settings.rounds):
            seconds["write 50,000 and 10,000 images"].append(_timed(lambda: _write(source, Path(folder))))
            seconds["write the training images"].append(_timed(lambda: _write(source, Path(folder), ("train",))))
            seconds["open, hash included"].append(_timed(lambda: open_beton(beton)))
            with create_loader(beton, batch_size=512, train=True, device=runtime.device) as loader:
                for epoch in range(5):
                    name = "a later epoch" if epoch else "the first epoch"
                    seconds[name].append(_timed(lambda: collections.deque(loader, maxlen=0)))
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
