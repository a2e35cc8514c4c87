"""`fastcifar report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastcifar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make a run's pictures and its page, or one page that compares several runs."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN...")]
    """The run's folder; of several, the page compares their curves, results and settings."""
    out: Path | None = None
    """Folder to write into; if not given RUN/report, or, to compare, runs-report beside the first run's folder."""
    top: int = 20
    """How many of the most confidently misclassified images to show, from 1 to 200."""
    checkpoint: Literal["best", "last"] = "last"
    """The weights to look at the test set with: the last epoch's, or the best epoch's."""
    data_dir: Path | None = None
    """Folder with train.beton and test.beton; the run's own if not given."""
    device: str = "auto"
    """'cpu', 'cuda', …; 'auto' takes CUDA where there is a device."""

    def run(self) -> int:
        """Write the page and say where it is."""
        if not self.folders:
            raise ConfigError("report needs the folder of a run, such as runs/20250101-120000-era")
        if len(self.folders) == 1:
            from fastcifar.report.run_page import write_report

            path = write_report(
                self.folders[0],
                out=self.out,
                checkpoint=self.checkpoint,
                top=self.top,
                device=self.device,
                data_dir=self.data_dir,
            )
        else:
            from fastcifar.report.comparison import write_comparison

            path = write_comparison(self.folders, out=self.out)
        print(f"report: {path}")
        return 0
