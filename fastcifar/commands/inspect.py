"""`fastcifar inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


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
        from fastcifar.report.summary import draw_samples, show_beton

        show_beton(self.file, Console(highlight=False), verify=self.verify)
        if self.png is not None:
            draw_samples(self.file, self.png)
            print(f"pictures: {self.png}")
        return 0
