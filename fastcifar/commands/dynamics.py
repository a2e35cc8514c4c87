"""`fastcifar dynamics`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastcifar.files import dump_json


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Find wrong labels and hard examples among a run's training images.

    The run must have been trained with --dynamics. The page has the data map (confidence by variability), the
    forgetting events, and the images with the most suspicious labels; suspicious.csv lists all training images in order
    of suspicion.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder."""
    out: Path | None = None
    """Folder to write to; RUN/report if not given. Existing files of the same names are replaced."""
    top: int = 40
    """Number of the most suspicious images to show, from 1 to 200."""
    data_dir: Path | None = None
    """Folder with train.beton; the one that the run used if not given. --betons is the same."""
    json: bool = False
    """Print one JSON object instead of text."""

    def run(self) -> int:
        """Write the page and the table, and print the most important numbers."""
        from fastcifar.report.dynamics_page import write_dynamics
        from fastcifar.report.progress import ProgressDisplay

        with ProgressDisplay() as display:
            display.start("reading the records and drawing the figures")
            report = write_dynamics(self.folder, out=self.out, top=self.top, data_dir=self.data_dir)
        if self.json:
            print(dump_json(report.to_json()))
            return 0
        for name, value in report.key_numbers().items():
            print(f"{value:>8}  {name}")
        print(f"Table: {report.table}")
        print(f"Report: {report.page}")
        return 0
