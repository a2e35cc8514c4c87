"""`fastcifar export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's network as ONNX, torch.export and safetensors files, each checked on the test set.

    The first two take uint8 images [N, 3, 32, 32], any number of them, and give float32 logits: normalisation is
    inside. A file is kept if, on every test image, its logits are within 1e-4 of the checkpoint's and its prediction
    is the same; images whose two highest logits are within 1e-4 are counted and not compared."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    out: Path | None = None
    """Folder to write to; the run's own folder `export` if not given."""
    checkpoint: Literal["best", "last"] = "last"
    """The last epoch's weights, or the best epoch's."""
    format: Literal["onnx", "torch", "safetensors", "all"] = "all"
    """model.onnx, model.pt2, model.safetensors with config.json, or all of them."""
    data_dir: Path | None = None
    """Folder with the test.beton to check on; the run's own if not given."""

    def run(self) -> int:
        """Write, check and keep one file after the other."""
        from fastcifar.inference.export import FORMATS, export_checkpoint

        out = self.folder / "export" if self.out is None else self.out
        formats = list(FORMATS) if self.format == "all" else [self.format]
        for export in export_checkpoint(self.folder, out, formats, self.checkpoint, data_dir=self.data_dir):
            agreement = export.agreement
            print(
                f"{export.path}: {export.bytes / 1e6:.1f} MB; on {agreement.images:,} test images the same predictions "
                f"({agreement.near_ties} near-ties aside), logits within {agreement.largest_difference:.1e}",
                flush=True,
            )
        return 0
