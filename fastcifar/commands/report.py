"""`fastcifar report`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastcifar.commands.shared import apply_settings_of, show_notes
from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run's figures and report.html, or one page that compares runs."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN...")]
    """Run folder; with several, the page compares their curves, results and settings, and passes over other files and
    folders."""
    out: Path | None = None
    """Folder to write to; if not given, RUN/report, or for several runs runs-report next to the first run folder. An
    earlier report in it is replaced."""
    top: int = 20
    """Number of the most confidently misclassified images to show, from 1 to 200."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    data_dir: Path | None = None
    """Folder with train.beton and test.beton; the one that the run used if not given. --betons is the same."""
    device: str = RuntimeSettings.device
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""

    def run(self) -> int:
        """Write the page and print its path."""
        if not self.folders:
            raise ConfigError("no run folder is given; name one, such as runs/20250101-120000-era")
        runs = self.folders if len(self.folders) == 1 else _only_runs(self.folders)
        if len(runs) == 1:
            from fastcifar.report.run_page import write_report

            run, device = runs[0], self.device
            apply_settings_of(run, device)
            path = write_report(
                run, out=self.out, checkpoint=self.checkpoint, top=self.top, device=device, data_dir=self.data_dir
            )
        else:
            from fastcifar.report.comparison import write_comparison

            path = write_comparison(runs, out=self.out)
        print(f"Report: {path}")
        return 0


def _only_runs(folders: Sequence[Path]) -> Sequence[Path]:
    """Return the folders that are runs, and name the others, since runs/* also gives reports and other files.

    Raises:
        CheckpointError: none of them is a run.
    """
    from fastcifar.runs.record import find_runs

    runs, errors = find_runs(folders)
    show_notes(f"passed over {error}" for error in errors)
    if not runs:
        raise CheckpointError(f"none of these {len(folders)} folders is a run folder with a finished epoch")
    return runs
