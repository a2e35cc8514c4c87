"""`fastcifar inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastcifar.report.terminal import make_console


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show the content of a .beton file."""

    file: Annotated[Path, tyro.conf.Positional]
    """The .beton file."""
    png: Path | None = None
    """Also draw sample images, one row per class, into this PNG file. An existing file is replaced."""
    verify: bool = True
    """Compare the file's SHA-256 with the one in its manifest."""

    def run(self) -> int:
        """Print the manifest and the number of images per class."""
        from fastcifar.report.summary import draw_samples, show_beton

        show_beton(self.file, make_console(), verify=self.verify)
        if self.png is not None:
            draw_samples(self.file, self.png)
            print(f"Sample images: {self.png}")
        return 0
