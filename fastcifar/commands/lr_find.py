"""`fastcifar lr-find`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastcifar.commands.shared import chosen_recipe, ensure_betons, output_folder, show_notes
from fastcifar.config import LrFinderSettings, TrainConfig
from fastcifar.progress import Progress
from fastcifar.recipes import DEFAULT_RECIPE
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from fastcifar.lr_finder.suggest import LrCurve, Suggestion
    from fastcifar.runs.read import Environment


@dataclass(frozen=True, kw_only=True)
class LrFind:
    """Find learning rates with a range test, and draw its curve.

    The learning rate rises from step to step until the loss diverges. The other options describe the training for
    which to find learning rates; the recipe gives their defaults.
    """

    recipe: str = DEFAULT_RECIPE
    """Name of a recipe or a file NAME.toml."""
    settings: Annotated[LrFinderSettings, tyro.conf.arg(name="")] = field(default_factory=LrFinderSettings)
    out: Path | None = None
    """Folder for lr_finder.png and lr_finder.json; runs/<time>-lr-find if not given. Existing files of
    these names are replaced."""
    source: str = "auto"
    """Data source if the .beton files are missing, as in `fastcifar write-beton --source`."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]

    def run(self) -> int:
        """Run the test, print the suggestions, and save them."""
        from fastcifar.device import apply_process_settings, resolve_runtime

        config = self.config.derived_from(Path(self.recipe).name)
        apply_process_settings(config.runtime)
        ensure_betons(config.data.data_dir, self.source)
        show_notes(resolve_runtime(config.runtime).notes)
        found = find_lr(config, self.settings)
        with output_folder(self.out, "lr-find") as folder:
            found.save(folder)
        found.show(make_console())
        print(f"Figure and data: {folder / 'lr_finder.png'}, {folder / 'lr_finder.json'}")
        return 0


def lr_find_default(arguments: list[str]) -> LrFind:
    """Return the defaults of the flags: those of the recipe."""
    config = chosen_recipe(arguments)
    return LrFind(recipe=config.name, config=config)


@dataclass(frozen=True, kw_only=True)
class LrFinderResult:
    """The curve of a range test, the learning rates that it suggests, the configuration and the environment."""

    curve: LrCurve
    suggestion: Suggestion
    config: TrainConfig
    environment: Environment

    def save(self, folder: Path) -> None:
        """Write lr_finder.png and lr_finder.json to a folder, and create it if it is missing."""
        from fastcifar.files import write_json
        from fastcifar.report.lr_plot import draw_lr_curve

        folder.mkdir(parents=True, exist_ok=True)
        draw_lr_curve(self.curve, self.suggestion, folder / "lr_finder.png")
        write_json(folder / "lr_finder.json", self.to_json())

    def show(self, console: Console) -> None:
        """Print the suggestions as a table."""
        from rich.table import Table

        from fastcifar.report.units import format_lr

        found = self.suggestion
        table = Table("", "learning rate", "chosen where")
        for name, value, where in (
            ("LRMAX", found.max_lr, "a tenth of the learning rate with the lowest loss (minimum / 10)"),
            ("", found.steepest, "the loss falls fastest (steepest slope)"),
            ("", found.valley, "the middle of the longest descent (valley)"),
            ("LRMIN", found.min_lr, "the loss begins to fall"),
            ("", found.max_lr_tenth, "LRMAX / 10"),
        ):
            table.add_row(name, format_lr(value, 2), where, style="bold" if name else "")
        console.print(table)
        if len(found_lrs := self.lrs) > 1:
            flags = " ".join(f"--{name.replace('_', '-')} {value:.3g}" for name, value in found_lrs.items())
            console.print(f"The test changed all groups of Muon in proportion: train with {flags}", soft_wrap=True)

    @property
    def lrs(self) -> dict[str, float]:
        """The settings, by name, with which a training uses LRMAX as it was tested."""
        from fastcifar.lr_finder.suggest import tested_lrs

        return tested_lrs(self.config, self.suggestion.max_lr)

    def to_json(self) -> dict[str, Any]:
        """Return learning rates, losses, suggestions, settings and environment as plain JSON values, without paths."""
        config = self.config.to_json()
        return {
            "suggestion": {**self.suggestion.to_json(), **self.lrs},
            "curve": self.curve.to_json(),
            "config": {name: value for name, value in config.items() if name not in ("data_dir", "run_dir")},
            "environment": self.environment,
        }


def find_lr(config: TrainConfig, settings: LrFinderSettings | None = None) -> LrFinderResult:
    """Run the range test for a training, and show its progress. Call `apply_process_settings` before.

    Raises:
        TrainingError: the loss diverged at once, or never fell.
        FastCifarError: bad input, as one of its other subclasses.
    """
    from fastcifar.lr_finder.range_test import range_test
    from fastcifar.lr_finder.suggest import suggest
    from fastcifar.report.units import format_lr
    from fastcifar.runs.folder import describe_environment
    from fastcifar.training.state import create_state

    settings = settings or LrFinderSettings()
    steps = itertools.count(1)

    def show(lr: float, loss: float) -> None:
        detail = f"lr {format_lr(lr)}  loss {loss:.3f}"
        display.show(
            Progress(task="range test", done=next(steps), total=settings.iterations, unit="steps", detail=detail)
        )

    with ProgressDisplay() as display, create_state(config) as state:
        curve = range_test(state, settings, on_loss=show)
        environment = describe_environment(state.runtime, state.manifest)
    return LrFinderResult(curve=curve, suggestion=suggest(curve), config=config, environment=environment)
