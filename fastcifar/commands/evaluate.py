"""`fastcifar evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastcifar.commands.shared import apply_settings_of, show_notes
from fastcifar.files import dump_json
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import make_console
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure accuracy, loss, calibration, and recall and precision per class of a run's checkpoint on the test set."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    data_dir: Path | None = None
    """Folder with test.beton; the one that the run used if not given. --betons is the same."""
    device: str = RuntimeSettings.device
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""
    amp: bool | None = None
    """Mixed precision; as in the run's training if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def run(self) -> int:
        """Evaluate the checkpoint on the test set and print the result."""
        from fastcifar.inference.evaluate import evaluate_checkpoint
        from fastcifar.report.summary import show_evaluation

        apply_settings_of(self.folder, self.device)
        options = {"data_dir": self.data_dir, "amp": self.amp}
        changes = {name: value for name, value in options.items() if value is not None}
        with ProgressDisplay() as display:
            evaluation = evaluate_checkpoint(
                self.folder, self.checkpoint, device=self.device, on_progress=display.show, **changes
            )
        show_notes(evaluation.notes)
        if self.json:
            print(dump_json(evaluation.to_json()))
        else:
            show_evaluation(evaluation, make_console())
        return 0
