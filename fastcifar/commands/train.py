"""`fastcifar train`."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from fastcifar.commands.lr_find import find_rates
from fastcifar.commands.shared import chosen_recipe, ensure_betons, new_folder
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from fastcifar.report.console import RunHeader
    from fastcifar.training.lr_curve import Suggestion
    from fastcifar.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network. The recipe gives the defaults of all other settings.

    With --resume, the settings are those of the run that is gone on with. With --max-lr find, or --min-lr find, a range
    test finds the rate first, as `fastcifar lr-find` does, and the run's folder keeps what it found."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    find_max_lr: bool = False
    """The same as --max-lr find."""
    min_lr: float | Literal["find"] | None = None
    """First rate of the one-cycle schedule (LRMIN), in place of --div-factor."""
    resume: Path | None = None
    """Go on with the run in this folder from its last checkpoint."""
    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""
    report: bool = True
    """Leave the run's pictures and report.html in its folder, as `fastcifar report` makes them; not for a run with
    --val-fraction, since they look at the test set."""
    log_dir: Path | None = None
    """Also write the settings and every epoch's results as TensorBoard events into this folder."""
    source: str = "auto"
    """Where to take the images from if the .beton files are missing: as `fastcifar write-beton --source`."""

    def run(self) -> int:
        """Write the betons if they are missing, find the rates if asked to, train, and show it."""
        finds = self.find_max_lr or self.min_lr == "find"
        if finds and (self.dry_run or self.resume is not None):
            other = "--dry-run" if self.dry_run else "--resume"
            raise ConfigError(f"--max-lr find and --min-lr find do not go with {other}: give the rates themselves")
        if self.dry_run:
            print(json.dumps(self._with_rates(None).to_json(), indent=2))
            return 0
        ensure_betons(self.config.betons, self.source)
        run_dir = self.resume or self.config.run_dir or new_folder(self.config.recipe)
        config = self._with_rates(_find_for(self.config, run_dir) if finds else None)
        config = dataclasses.replace(config, run_dir=run_dir)
        _train(config, resume=self.resume is not None, log_dir=self.log_dir)
        if self.report and not config.val_fraction:
            from fastcifar.report.page import write_report

            print(f"Report: {write_report(run_dir, device=config.device)}")
        return 0

    def _with_rates(self, found: Suggestion | None) -> TrainConfig:
        """The configuration with the rates that were given or are to be taken from what was found."""
        config, min_lr = self.config, self.min_lr
        if found is not None and self.find_max_lr:
            config = dataclasses.replace(config, max_lr=found.max_lr)
        if found is not None and min_lr == "find":
            min_lr = found.min_lr
        return config if min_lr is None else _starting_at(float(min_lr), config)


def train_arguments(arguments: list[str]) -> list[str]:
    """`--max-lr find` as the flag that it stands for: the setting itself is a number."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max-lr", "--max_lr", dest="max_lr", nargs="?")
    known, others = parser.parse_known_args(arguments)
    return [*others, "--find-max-lr"] if known.max_lr == "find" else arguments


def train_default(arguments: list[str]) -> Train:
    """The recipe, or the run to go on with, decides the defaults that the flags then change."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    resume: Path | None = parser.parse_known_args(arguments)[0].resume
    if resume is None:
        return Train(config=chosen_recipe(arguments))
    from fastcifar.training.run import read_config

    return Train(config=read_config(resume), resume=resume)


def _find_for(config: TrainConfig, run_dir: Path) -> Suggestion:
    """Run a range test, show it, and keep it in the folder of the run to come."""
    from fastcifar.training.run import RunFolder

    RunFolder(run_dir).refuse_another_run()
    found = find_rates(config)
    found.show(Console(highlight=False))
    found.save(run_dir)
    return found.suggestion


def _starting_at(min_lr: float, config: TrainConfig) -> TrainConfig:
    if not 0 < min_lr <= config.max_lr:
        raise ConfigError(f"min_lr is {min_lr!r}; it must be above 0 and at most max_lr, {config.max_lr!r}")
    return dataclasses.replace(config, div_factor=config.max_lr / min_lr)


def _train(config: TrainConfig, *, resume: bool, log_dir: Path | None) -> None:
    from fastcifar.report.console import TrainingConsole
    from fastcifar.training.checkpoint import restore
    from fastcifar.training.loop import fit
    from fastcifar.training.results import EpochResult
    from fastcifar.training.run import read_metrics
    from fastcifar.training.state import create_state
    from fastcifar.training.stop import stop_on_signals
    from fastcifar.training.tensorboard import TensorBoardLog

    assert config.run_dir is not None
    with TrainingConsole(target=config.target) as console, ExitStack() as stack:
        state = create_state(config)
        if resume:
            damage = restore(config.run_dir, state)
            if damage:
                console.say(f"{damage}. Going on from the checkpoint before it, {_where(state)}")
        console.header(_header(state))
        consumers = [console.epoch]
        if log_dir is not None:
            consumers.append(stack.enter_context(TensorBoardLog(log_dir, config)).epoch)
        if resume:
            for line in read_metrics(config.run_dir)[: state.epoch]:
                for consume in consumers:
                    consume(EpochResult(**line))
        if config.compile:
            console.say("Compiling network and augmentation, before the clock starts")
        stop = stack.enter_context(stop_on_signals())
        try:
            for result in fit(config, state=state, on_step=console.step, stop=stop):
                for consume in consumers:
                    consume(result)
        except (StoppedError, OSError) as error:
            if isinstance(error, OSError) and not _lost_terminal(error):
                raise
            # a line may find the terminal gone before the signal tells of it
            stopped = StoppedError(signal.Signals(stop.signal or signal.SIGHUP))
            stopped.args = (f"stopped {_where(state)}; go on by `fastcifar train --resume {config.run_dir}`",)
            raise stopped from error
        console.summary(config.run_dir)


def _lost_terminal(error: OSError) -> bool:
    """Whether it is of a line that a terminal did not take; an error of a file names the file."""
    return error.errno == errno.EIO and error.filename is None


def _where(state: TrainState) -> str:
    """How far a run is."""
    return f"after epoch {state.epoch}" + (f" and {state.epoch_steps} steps" if state.epoch_steps else "")


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
