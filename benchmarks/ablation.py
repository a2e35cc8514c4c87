"""What each part of a speed recipe gives: the recipe in turn with itself less one part, from the same seeds.

    python -m benchmarks.ablation speedrun --seeds 5 --out benchmarks/results/ablation-speedrun-cpu.json

What stands for a part that is taken away is its plain form, untuned: a coin for the alternate flip, Adam for Muon, and,
for the small images and the frozen layers, as many multiply-adds without. What test-time augmentation gives needs no
runs of its own: each has its accuracy with it and without.
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
    "the convolutions' start as identities": "dirac=false",
    "Muon (Adam, rate 0.005)": "optimizer=adam,max_lr=0.005",
    "alternate flip (a coin's)": "alternate_flip=false,flip_p=0.5",
    "label smoothing": "label_smoothing=0",
    "norm scales kept": "freeze_norm_scale=false",
    "a higher norm momentum (0.1)": "norm_momentum=0.1",
    "the crop": "padding=0",
    "a last rate above zero": "final_div_factor=1000",
}
PARTS = {
    "speedrun": {
        **SHARED,
        "batches of 1000 (500)": "batch_size=500,bias_lr=77.0,head_lr=335.0",
        "small images (2.04 epochs)": "small_sizes=[],resize_fractions=[],epochs=2.04",
        "the frozen first parts (3.82 epochs)": "freeze=[],freeze_at=[],epochs=3.82",
        "narrow groups (64, 256, 256; 2.36 epochs)": "widths=[],epochs=2.36",
    },
    "era-fast": {
        **SHARED,
        "batches of 500 (1000)": "batch_size=1000,bias_lr=53.0,head_lr=670.0",
        "small images (1.21 epochs)": "small_sizes=[],resize_fractions=[],epochs=1.21",
        "the frozen first stages (2.13 epochs)": "freeze=[],freeze_at=[],epochs=2.13",
    },
}
"""For each recipe, its parts in words and the changes that take each away."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train a speed recipe and the recipe less each of its parts, in turn."""

    recipe: Annotated[str, tyro.conf.Positional]
    """'speedrun' or 'era-fast'."""
    betons: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    seeds: int = 5
    """Runs of each."""
    resume: bool = False
    """Go on with the runs that --out has, made on this device."""
    out: Path = RESULTS / "ablation.json"
    """The JSON to write, again after each run."""


def main(settings: Ablation) -> None:
    if settings.recipe not in PARTS:
        raise ConfigError(f"recipe is {settings.recipe!r}; it must be one of {', '.join(PARTS)}")
    time_to_90.main(
        time_to_90.TimeTo90(
            recipes=(settings.recipe, *without(settings.recipe)),
            betons=settings.betons,
            device=settings.device,
            compile=settings.compile,
            seeds=settings.seeds,
            resume=settings.resume,
            out=settings.out,
        )
    )


def without(recipe: str) -> dict[str, str]:
    """The trainings that lack a part, as the results name them, and that part in words."""
    return {f"{recipe}:{changes}": part for part, changes in PARTS[recipe].items()}


if __name__ == "__main__":
    run_command(main, Ablation, __doc__)
