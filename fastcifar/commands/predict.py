"""`fastcifar predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.commands.shared import apply_settings_of, show_notes
from fastcifar.errors import ConfigError, DataError
from fastcifar.files import dump_json
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import make_console
from fastcifar.settings import RuntimeSettings

if TYPE_CHECKING:
    from fastcifar.inference.predict import PicturePrediction


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show the most likely classes of image files, with their probabilities.

    Images of any size are resized to the network's input size with Pillow's antialiased bicubic filter, without keeping
    their aspect ratio. Transparent pixels become white, 16 bits are scaled to 8, and pictures are rotated as their EXIF
    data says. Probabilities are the softmax of the logits, computed in float32.

    Each image is shown as soon as it is predicted. Images that cannot be read are named at the end, with exit code 1.

    --out writes a CSV file instead: path, label and confidence of each image, or a submission to Kaggle.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files of any format that Pillow reads, folders that are searched for them (sorted by path, with subfolders,
    without hidden files and those of the system), or '-' to read one image from standard input."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    top: int = 5
    """Number of classes to show per image."""
    device: str = RuntimeSettings.device
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""
    json: bool = False
    """Print one JSON object per line and image."""
    out: Path | None = None
    """CSV file to write, instead of printing: the columns path, label, confidence; or id, label, sorted by id, if all
    images are in one folder and called 1.png, 2.png, …, as in Kaggle's test set. Images that cannot be read have no
    row. An existing file is replaced when all rows are there."""

    def __post_init__(self) -> None:
        check(self, top=AT_LEAST_1)
        if not self.images:
            raise ConfigError("no image is given; name files or folders, or - for standard input")
        if self.json and self.out is not None:
            raise ConfigError("json and out are given; choose one of them")

    def run(self) -> int:
        """Read the images, classify them, show or write the results, and at the end name the unreadable images."""
        from fastcifar.data.picture_files import note_others
        from fastcifar.inference.evaluate import load_classifier
        from fastcifar.inference.predict import find_pictures, predict_pictures
        from fastcifar.report.prediction_table import check_table, sort_by_number

        if self.out is not None:
            check_table(self.out)
        found = find_pictures(self.images)
        show_notes(note_others(found.others))
        by_number = None if self.out is None else sort_by_number(found.pictures)
        apply_settings_of(self.folder, self.device)
        saved = load_classifier(self.folder, self.checkpoint, device=self.device, amp=False)
        unreadable: list[DataError] = []
        with ProgressDisplay() if self.shows_progress else nullcontext() as display:
            predictions = predict_pictures(
                saved,
                by_number or found.pictures,
                top=self.top,
                on_unreadable=unreadable.append,
                on_progress=display.show if display else None,
            )
            self._output(predictions, submission=by_number is not None)
        show_notes(f"fastcifar: {error}" for error in unreadable)
        if unreadable and self.out is not None:
            show_notes([f"{self.out}: {len(unreadable):,} of {len(found.pictures):,} images have no row"])
        return 1 if unreadable else 0

    @property
    def shows_progress(self) -> bool:
        """Whether there is a bar or lines: not where the rows themselves are shown on a terminal."""
        return self.out is not None or sys.stdout is None or not sys.stdout.isatty()

    def _output(self, predictions: Iterator[PicturePrediction], *, submission: bool) -> None:
        from fastcifar.report.prediction_table import COLUMNS, SUBMISSION, write_predictions
        from fastcifar.report.summary import show_predictions

        if self.out is not None:
            rows = write_predictions(self.out, predictions, submission=submission)
            print(f"{self.out}: {rows:,} rows with the columns {', '.join(SUBMISSION if submission else COLUMNS)}")
        elif self.json:
            for prediction in predictions:
                print(dump_json(prediction.to_json()), flush=True)
        else:
            show_predictions(predictions, make_console())
