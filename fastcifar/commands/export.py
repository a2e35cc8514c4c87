"""`fastcifar export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastcifar.report.progress import ProgressDisplay

if TYPE_CHECKING:
    from fastcifar.inference.export import Agreement


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's network as ONNX, torch.export and safetensors files.

    The ONNX and torch.export files take uint8 images [N, 3, 32, 32], for any N, and return float32 logits [N, classes];
    they normalise the images themselves. Each file is checked on the test set and kept if, for every image, its logits
    are within 1e-4 of the checkpoint's and its predictions are the same. Images whose two highest logits are within
    1e-4 of each other are counted but their predictions are not compared.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder."""
    out: Path | None = None
    """Folder to write to; RUN/export if not given. Existing files of the same names are replaced."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    format: Literal["onnx", "torch", "safetensors", "all"] = "all"
    """Files to write: model.onnx, model.pt2, model.safetensors with config.json, or all of them."""
    data_dir: Path | None = None
    """Folder with test.beton; the one that the run used if not given. --betons is the same."""

    check: bool = True
    """Check each file on the test set. Without it, the export needs no data."""

    def run(self) -> int:
        """Write and check one file after the other."""
        from fastcifar.inference.export import FORMATS, export_checkpoint

        out = self.folder / "export" if self.out is None else self.out
        formats = list(FORMATS) if self.format == "all" else [self.format]
        options: dict[str, Any] = {"data_dir": self.data_dir, "check": self.check}
        with ProgressDisplay() as display:
            display.start("exporting")
            for export in export_checkpoint(self.folder, out, formats, self.checkpoint, **options):
                print(f"{export.path}: {export.bytes / 1e6:.1f} MB; {_describe(export.agreement)}", flush=True)
        return 0


def _describe(agreement: Agreement | None) -> str:
    if agreement is None:
        return "not checked"
    return (
        f"on {agreement.images:,} test images the same predictions ({agreement.near_ties} near-ties aside), "
        f"logits within {agreement.largest_difference:.1e}"
    )
