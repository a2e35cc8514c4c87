"""`fastcifar train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastcifar.commands.write_beton import WriteBeton
from fastcifar.config import TrainConfig
from fastcifar.recipes import get_recipe

if TYPE_CHECKING:
    from fastcifar.report.console import RunHeader
    from fastcifar.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network. The recipe gives the defaults of all other settings.

    With --resume, the settings are those of the run that is gone on with."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    resume: Path | None = None
    """Go on with the run in this folder from its last checkpoint."""
    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""
    source: str = "auto"
    """Where to take the images from if the .beton files are missing: as `fastcifar write-beton --source`."""

    def run(self) -> int:
        """Write the betons if they are missing, train, and show it."""
        if self.dry_run:
            print(json.dumps(self.config.to_json(), indent=2))
            return 0
        if not all((self.config.betons / f"{split}.beton").exists() for split in ("train", "test")):
            WriteBeton(source=self.source, out=self.config.betons).run()
        run_dir = self.resume or self.config.run_dir
        if run_dir is None:
            run_dir = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.config.recipe}"
        return _train(dataclasses.replace(self.config, run_dir=run_dir), resume=self.resume is not None)


def train_default(arguments: list[str]) -> Train:
    """The recipe, or the run to go on with, decides the defaults that the flags then change."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="era")
    first.add_argument("--resume", type=Path)
    known, _ = first.parse_known_args(arguments)
    if known.resume is None:
        return Train(config=get_recipe(known.recipe))
    from fastcifar.training.run import read_config

    return Train(config=read_config(known.resume), resume=known.resume)


def _train(config: TrainConfig, *, resume: bool) -> int:
    from fastcifar.report.console import TrainingConsole
    from fastcifar.training.checkpoint import checkpoint_path, restore
    from fastcifar.training.loop import fit
    from fastcifar.training.results import EpochResult
    from fastcifar.training.run import read_metrics
    from fastcifar.training.state import create_state

    assert config.run_dir is not None
    with TrainingConsole(target=config.target) as console:
        state = create_state(config)
        if resume:
            restore(checkpoint_path(config.run_dir, "last"), state)
        console.header(_header(state))
        if resume:
            for line in read_metrics(config.run_dir)[: state.epoch]:
                console.epoch(EpochResult(**line))
        if config.compile:
            console.say("Compiling network and augmentation, before the clock starts")
        for result in fit(config, state=state, on_step=console.step):
            console.epoch(result)
        console.summary(config.run_dir)
    return 0


def _header(state: TrainState) -> RunHeader:
    from fastcifar.report.console import RunHeader

    held_out = "validate" if state.config.val_fraction else "test"
    images = f"{len(state.train_loader.indices):,} to train on, {state.test_loader.samples:,} to {held_out} on"
    return RunHeader(
        device=state.runtime.describe_device(),
        precision=state.runtime.describe_precision(),
        model=state.config.model,
        parameters=sum(parameter.numel() for parameter in state.network.model.parameters()),
        recipe=state.config.recipe,
        images=f"{state.manifest.name}: {images}",
        epochs=state.config.epochs,
        batch_size=state.config.batch_size,
    )
