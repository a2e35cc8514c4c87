"""`fastcifar evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fastcifar.commands.shared import show_notes


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Repeat the test accuracy of a run's checkpoint, with loss and class-wise accuracy."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    checkpoint: Literal["best", "last"] = "last"
    """The last epoch's weights, or the best epoch's."""
    data_dir: Path | None = None
    """Folder with test.beton; the run's own if not given."""
    device: str = "auto"
    """'cpu', 'cuda', …; 'auto' takes CUDA where there is a device."""
    amp: bool | None = None
    """Automatic mixed precision; as the run was trained if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def run(self) -> int:
        """Evaluate on the test set."""
        from fastcifar.inference.evaluate import evaluate_checkpoint
        from fastcifar.report.summary import show_evaluation

        changes = {"data_dir": self.data_dir, "amp": self.amp}
        evaluation = evaluate_checkpoint(
            self.folder,
            self.checkpoint,
            device=self.device,
            **{name: value for name, value in changes.items() if value is not None},
        )
        show_notes(evaluation.notes)
        if self.json:
            print(json.dumps(evaluation.to_json()))
        else:
            show_evaluation(evaluation, Console(highlight=False))
        return 0
