"""`fastcifar lr-find`."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from fastcifar.commands.shared import chosen_recipe, ensure_betons, new_folder
from fastcifar.config import TrainConfig
from fastcifar.training.lr_settings import LrFinderSettings

if TYPE_CHECKING:
    from fastcifar.training.lr_curve import LrCurve, Suggestion
    from fastcifar.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class LrFind:
    """Find LRMAX and LRMIN by a range test: the loss as the rate rises from step to step.

    The recipe gives the defaults of all settings of the training whose rates are looked for."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    settings: Annotated[LrFinderSettings, tyro.conf.arg(name="")] = field(default_factory=LrFinderSettings)
    out: Path | None = None
    """Folder for lr_finder.png and lr_finder.json; runs/<time>-lr-find if not given."""
    source: str = "auto"
    """Where to take the images from if the .beton files are missing: as `fastcifar write-beton --source`."""

    def run(self) -> int:
        """Test, print what is suggested, and keep it."""
        ensure_betons(self.config.betons, self.source)
        found = find_rates(self.config, self.settings)
        folder = self.out or new_folder("lr-find")
        found.save(folder)
        found.show(Console(highlight=False))
        print(f"picture and figures: {folder / 'lr_finder.png'}, {folder / 'lr_finder.json'}")
        return 0


def lr_find_default(arguments: list[str]) -> LrFind:
    """The recipe decides the defaults that the flags then change."""
    return LrFind(config=chosen_recipe(arguments))


@dataclass(frozen=True, kw_only=True)
class FoundRates:
    """A range test's curve, what it suggests, and what it depends on."""

    curve: LrCurve
    suggestion: Suggestion
    config: TrainConfig
    environment: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write lr_finder.png and lr_finder.json into a folder, which is made if it is missing."""
        from fastcifar.files import replacing
        from fastcifar.report.lr_plot import draw_lr_curve

        folder.mkdir(parents=True, exist_ok=True)
        draw_lr_curve(self.curve, self.suggestion, folder / "lr_finder.png")
        with replacing(folder / "lr_finder.json") as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    def show(self, console: Console) -> None:
        """Print the suggestions as a table."""
        from fastcifar.report.units import format_rate

        rates = self.suggestion
        table = Table("", "rate", "where")
        for name, value, where in (
            ("LRMAX", rates.max_lr, "a tenth of the rate with the lowest loss (minimum / 10)"),
            ("", rates.steepest, "the loss falls fastest (steepest slope)"),
            ("", rates.valley, "the middle of the longest descent (valley)"),
            ("LRMIN", rates.min_lr, "the loss begins to fall"),
            ("", rates.max_lr_tenth, "LRMAX / 10"),
        ):
            table.add_row(name, format_rate(value, 2), where, style="bold" if name else "")
        console.print(table)

    def to_json(self) -> dict[str, Any]:
        """Rates, losses, suggestions, settings and environment as plain JSON values, without paths."""
        paths = {name for name, value in dataclasses.asdict(self.config).items() if isinstance(value, Path)}
        config = {name: value for name, value in self.config.to_json().items() if name not in paths}
        return {
            "suggestion": self.suggestion.to_json(),
            "curve": self.curve.to_json(),
            "config": config,
            "environment": self.environment,
        }


def find_rates(config: TrainConfig, settings: LrFinderSettings | None = None) -> FoundRates:
    """Run the range test of a training's rates, with a bar on a terminal.

    Raises:
        TrainingError: the loss diverged at once, or never fell.
        FastCifarError: bad input, as one of its other children says.
    """
    from fastcifar.training.lr_curve import suggest
    from fastcifar.training.run import describe_environment
    from fastcifar.training.state import create_state

    state = create_state(config)
    try:
        curve = _with_bar(state, settings or LrFinderSettings())
        environment = describe_environment(state.runtime, state.manifest)
    finally:
        state.close()
    return FoundRates(curve=curve, suggestion=suggest(curve), config=config, environment=environment)


def _with_bar(state: TrainState, settings: LrFinderSettings) -> LrCurve:
    from rich.progress import Progress

    from fastcifar.training.lr_finder import range_test

    console = Console(file=sys.stderr)  # this very stream: the range test silences what `sys.stderr` names by then
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("range test", total=settings.iterations)
        return range_test(
            state,
            settings,
            on_loss=lambda lr, loss: bar.update(task, advance=1, description=f"rate {lr:.1e}  loss {loss:.3f}"),
        )
