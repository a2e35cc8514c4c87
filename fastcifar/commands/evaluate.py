"""`fastcifar evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastcifar.checks import check
from fastcifar.commands.shared import apply_settings_of, show_notes
from fastcifar.errors import ConfigError
from fastcifar.files import dump_json
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import make_console
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure accuracy, loss, calibration, and recall and precision per class of a run's checkpoint on the test set.

    With --corrupt or --corrupt-dir, measure the error on corrupted test images. If no kind and no severity is left out,
    the errors are saved in the run folder, as corruptions.json or corruptions-published.json, for its report.
    """

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
    corrupt: bool = False
    """Evaluate on test images with the 15 corruptions of CIFAR-10-C at five severities instead."""
    corrupt_dir: Path | None = None
    """Folder with the published .npy files of CIFAR-10-C, to evaluate on those images."""
    kinds: tuple[str, ...] = ()
    """Kinds of corruption, such as fog snow; all if not given."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities of the corruptions."""
    seed: int = 0
    """Seed of the corruptions."""

    def __post_init__(self) -> None:
        check(self, corrupt_dir=(lambda _: not self.corrupt, "left out with --corrupt, which makes the images itself"))
        if self.kinds and not (self.corrupt or self.corrupt_dir):
            raise ConfigError("kinds is given without corruptions; add --corrupt or --corrupt-dir")

    def run(self) -> int:
        """Evaluate the checkpoint and print the result."""
        apply_settings_of(self.folder, self.device)
        options = {"data_dir": self.data_dir, "amp": self.amp}
        changes = {name: value for name, value in options.items() if value is not None}
        if self.corrupt or self.corrupt_dir:
            self._evaluate_corruptions(changes)
        else:
            self._evaluate(changes)
        return 0

    def _evaluate(self, changes: dict[str, Any]) -> None:
        from fastcifar.inference.evaluate import evaluate_checkpoint
        from fastcifar.report.summary import show_evaluation

        with ProgressDisplay() as display:
            evaluation = evaluate_checkpoint(
                self.folder, self.checkpoint, device=self.device, on_progress=display.show, **changes
            )
        show_notes(evaluation.notes)
        if self.json:
            print(dump_json(evaluation.to_json()))
        else:
            show_evaluation(evaluation, make_console())

    def _evaluate_corruptions(self, changes: dict[str, Any]) -> None:
        from fastcifar.inference.corrupted import evaluate_corrupted_files, evaluate_corruptions
        from fastcifar.inference.corruption_errors import save_corruption_errors
        from fastcifar.report.corruptions import show_corruption_errors

        options = {"kinds": self.kinds, "severities": self.severities, "device": self.device, **changes}
        with ProgressDisplay() as display:
            options["on_progress"] = display.show
            if self.corrupt_dir:
                errors = evaluate_corrupted_files(self.folder, self.corrupt_dir, self.checkpoint, **options)
            else:
                errors = evaluate_corruptions(self.folder, self.checkpoint, seed=self.seed, **options)
        show_notes(errors.notes)
        if self.json:
            print(dump_json(errors.to_json()))
        else:
            show_corruption_errors(errors, make_console())
        save_corruption_errors(self.folder, errors)  # after printing: a disk that is full must not lose the errors
