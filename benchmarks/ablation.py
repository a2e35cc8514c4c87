"""The gain from each part of a speed recipe: the recipe and the recipe without one part, in turn, from equal seeds.

    python -m benchmarks.ablation speedrun --seeds 5 --out benchmarks/results/ablation-speedrun-cpu.json

A part is replaced by its plain form, which is not tuned: a random flip for the alternate flip, Adam for Muon. Without
progressive resizing or frozen layers, the number of epochs is reduced to the same number of multiply-adds. The gain
from test-time augmentation needs no runs of its own: each run records its accuracy with and without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import time_to_90
from benchmarks.common import RESULTS, run_command
from fastcifar.errors import ConfigError

SHARED = {
    "whitening of the first layer": "whiten=false",
    "identity initialisation of convolutions": "dirac=false",
    "Muon (Adam, learning rate 0.005)": "optimizer=adam,max_lr=0.005",
    "alternate flip (random flip)": "alternate_flip=false,flip_p=0.5",
    "label smoothing": "label_smoothing=0",
    "frozen batch norm scales": "freeze_norm_scale=false",
    "a higher batch norm momentum (0.1)": "norm_momentum=0.1",
    "random crop": "padding=0",
    "a last learning rate above zero": "final_div_factor=1000",
}
PARTS = {
    "speedrun": {
        **SHARED,
        "batches of 1000 (500)": "batch_size=500,bias_lr=77.0,head_lr=335.0",
        "progressive resizing (2.04 epochs)": "resize_sizes=[],resize_fractions=[],epochs=2.04",
        "frozen first modules (3.82 epochs)": "freeze=[],freeze_at=[],epochs=3.82",
        "narrow groups (64, 256, 256; 2.36 epochs)": "widths=[],epochs=2.36",
    },
    "era-fast": {
        **SHARED,
        "batches of 500 (1000)": "batch_size=1000,bias_lr=53.0,head_lr=670.0",
        "progressive resizing (1.21 epochs)": "resize_sizes=[],resize_fractions=[],epochs=1.21",
        "frozen first modules (2.13 epochs)": "freeze=[],freeze_at=[],epochs=2.13",
    },
}
"""For each recipe, its parts, with the replacement in brackets, and the changes of settings that replace them."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train a speed recipe, and the recipe without each of its parts, in turn."""

    recipe: Annotated[str, tyro.conf.Positional]
    """'speedrun' or 'era-fast'."""
    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    seeds: int = 5
    """Runs of each."""
    resume: bool = False
    """Keep the runs in --out, which were measured on this device, and add those that are missing."""
    out: Path = RESULTS / "ablation.json"
    """The JSON to write, after each run."""


def main(settings: Ablation) -> None:
    if settings.recipe not in PARTS:
        raise ConfigError(f"recipe is {settings.recipe!r}; it must be one of {', '.join(PARTS)}")
    time_to_90.main(
        time_to_90.TimeTo90(
            recipes=(settings.recipe, *ablations(settings.recipe)),
            data_dir=settings.data_dir,
            device=settings.device,
            compile=settings.compile,
            seeds=settings.seeds,
            resume=settings.resume,
            out=settings.out,
        )
    )


def ablations(recipe: str) -> dict[str, str]:
    """The names of the trainings without one part, as in the results, and the name of that part."""
    return {f"{recipe}:{changes}": part for part, changes in PARTS[recipe].items()}


if __name__ == "__main__":
    run_command(main, Ablation, __doc__)
