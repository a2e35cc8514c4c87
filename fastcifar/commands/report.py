"""`fastcifar report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastcifar.commands.shared import apply_settings_of
from fastcifar.errors import ConfigError
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run's figures and report.html, or one page that compares runs."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN...")]
    """Run folder; with several, the page compares their curves, results and settings."""
    out: Path | None = None
    """Folder to write to; if not given, RUN/report, or for several runs runs-report next to the first run folder."""
    top: int = 20
    """Number of the most confidently misclassified images to show, from 1 to 200."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    data_dir: Path | None = None
    """Folder with train.beton and test.beton; the one that the run used if not given."""
    device: str = RuntimeSettings.device
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""

    def run(self) -> int:
        """Write the page and print its path."""
        if not self.folders:
            raise ConfigError("no run folder is given; name one, such as runs/20250101-120000-era")
        if len(self.folders) == 1:
            from fastcifar.report.run_page import write_report

            run, device = self.folders[0], self.device
            apply_settings_of(run, device)
            path = write_report(
                run, out=self.out, checkpoint=self.checkpoint, top=self.top, device=device, data_dir=self.data_dir
            )
        else:
            from fastcifar.report.comparison import write_comparison

            path = write_comparison(self.folders, out=self.out)
        print(f"Report: {path}")
        return 0
