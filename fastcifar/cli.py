"""The command line: parse, call, turn errors into exit codes. The only place that catches them.

A command is a dataclass: its fields are its flags, its docstring is its help, `run` is what it does. Torch and FFCV are
imported only by the commands that use them.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.recipes import get_recipe

if TYPE_CHECKING:
    from fastcifar.data.sources import ImageSet
    from fastcifar.report.console import RunHeader
    from fastcifar.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class WriteBeton:
    """Turn a set of images into train.beton and test.beton, with a manifest beside each."""

    source: str = "auto"
    """A torchvision root, a folder of CIFAR-10's python or binary version, its archive, an image folder
    (train/<class>/*.png, test/<class>/*.png), 'download', or 'synthetic' for made-up shapes. 'auto' takes the folder
    named by FASTCIFAR_DATA, else a copy fetched before, else the download."""
    out: Path = Path("data/betons")
    """Folder to write to."""
    resize: int | None = None
    """Resize an image folder's pictures to this many pixels a side; without it, two sizes are an error."""
    workers: int | None = None
    """Threads that decode an image folder's pictures; never more than the cores."""
    cache: Path = Path("data/cifar10")
    """Where the download is kept."""
    seed: int = 0
    """Of the synthetic pictures."""

    def run(self) -> int:
        """Write both files."""
        from fastcifar.data.sources import open_source

        source = open_source(self.source, cache=self.cache, resize=self.resize, workers=self.workers, seed=self.seed)
        for split, images in (("train", source.train), ("test", source.test)):
            _write_split(self.out / f"{split}.beton", images, source.class_names, source.name)
        return 0


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a .beton holds."""

    file: Annotated[Path, tyro.conf.Positional]
    """The .beton."""
    png: Path | None = None
    """Also draw some of its pictures, a row a class, into this PNG."""
    verify: bool = True
    """Compare the file's SHA-256 with its manifest's."""

    def run(self) -> int:
        """Print the manifest and the number of images a class."""
        from fastcifar.report.inspect import draw_samples, show_beton

        show_beton(self.file, Console(highlight=False), verify=self.verify)
        if self.png is not None:
            draw_samples(self.file, self.png)
            print(f"pictures: {self.png}")
        return 0


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


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Repeat the test accuracy of a run's checkpoint, with loss and class-wise accuracy."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    checkpoint: Literal["best", "last"] = "last"
    """The last epoch's weights, or the best epoch's."""
    betons: Path | None = None
    """Folder with test.beton; the run's own if not given."""
    device: str = "auto"
    """'cpu', 'cuda', …; 'auto' takes CUDA where there is a device."""
    amp: bool | None = None
    """Automatic mixed precision; as the run was trained if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def run(self) -> int:
        """Evaluate on the test set."""
        from fastcifar.report.evaluation import show_evaluation
        from fastcifar.training.evaluation import evaluate_checkpoint

        changes = {"betons": self.betons, "amp": self.amp}
        evaluation = evaluate_checkpoint(
            self.folder,
            self.checkpoint,
            device=self.device,
            **{name: value for name, value in changes.items() if value is not None},
        )
        if self.json:
            print(json.dumps(evaluation.to_json()))
        else:
            show_evaluation(evaluation, Console(highlight=False))
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions, devices and FFCV's health, and what to do about each thing that is missing."""

    def run(self) -> int:
        """Exit code 1 if anything is missing."""
        from fastcifar.doctor import examine, show

        findings = examine()
        show(findings, Console(highlight=False))
        return int(any(finding.status == "missing" for finding in findings))


Command = WriteBeton | Inspect | Train | Evaluate | Doctor

COMMANDS: dict[str, type[Command]] = {
    "write-beton": WriteBeton,
    "inspect": Inspect,
    "train": Train,
    "evaluate": Evaluate,
    "doctor": Doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code: 0, 2 for usage, 130 for Ctrl-C, 1 for the rest."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if arguments[0] == "--version":
            from importlib.metadata import version

            print(f"fastcifar {version('fastcifar')}")
            return 0
        return _parse(arguments[0], arguments[1:]).run()
    except FastCifarError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _parse(name: str, arguments: list[str]) -> Command:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `fastcifar --help`"
        raise ConfigError(f"there is no command {name!r}: {hint}")
    options: dict[str, Any] = {"default": _train_default(arguments)} if name == "train" else {}
    command: Command = tyro.cli(COMMANDS[name], prog=f"fastcifar {name}", args=arguments, **options)
    return command


def _train_default(arguments: list[str]) -> Train:
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


def _write_split(path: Path, images: ImageSet, class_names: tuple[str, ...], name: str) -> None:
    from rich.progress import Progress

    from fastcifar.data.beton import write_beton

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{path}", total=len(images.images))
        manifest = write_beton(
            path,
            images.images,
            images.labels,
            class_names=class_names,
            name=name,
            progress=lambda done: bar.update(task, completed=done),
        )
    print(f"{path}: {manifest.samples:,} images of {manifest.name}, {manifest.file_size / 1e6:.1f} MB", flush=True)


def _overview() -> str:
    rows = "\n".join(f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items())
    return f"""usage: fastcifar COMMAND [OPTIONS]

CIFAR-10 to 90 % and beyond, every second counted.

{rows}

  --version    Print the version.

`fastcifar COMMAND --help` shows a command's options."""


def _fail(message: str, code: int) -> int:
    print(f"fastcifar: {message}", file=sys.stderr)
    return code
