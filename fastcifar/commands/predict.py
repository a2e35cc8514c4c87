"""`fastcifar predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.commands.shared import apply_settings_of, show_notes
from fastcifar.errors import ConfigError, DataError
from fastcifar.files import dump_json
from fastcifar.report.terminal import make_console
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show the most likely classes of image files, with their probabilities.

    Images of any size are resized to the network's input size with Pillow's antialiased bicubic filter, without keeping
    their aspect ratio. Transparent pixels become white, 16 bits are scaled to 8, and pictures are rotated as their EXIF
    data says. Probabilities are the softmax of the logits, computed in float32.

    Each image is shown as soon as it is predicted. Images that cannot be read are named at the end, with exit code 1.
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

    def __post_init__(self) -> None:
        check(self, top=AT_LEAST_1)
        if not self.images:
            raise ConfigError("no image is given; name files or folders, or - for standard input")

    def run(self) -> int:
        """Read the images, classify them, print each result, and at the end the images that cannot be read."""
        from fastcifar.data.picture_files import note_others
        from fastcifar.inference.evaluate import load_classifier
        from fastcifar.inference.predict import find_pictures, predict_pictures
        from fastcifar.report.summary import show_predictions

        found = find_pictures(self.images)
        show_notes(note_others(found.others))
        apply_settings_of(self.folder, self.device)
        saved = load_classifier(self.folder, self.checkpoint, device=self.device, amp=False)
        unreadable: list[DataError] = []
        predictions = predict_pictures(saved, found.pictures, top=self.top, on_unreadable=unreadable.append)
        if self.json:
            for prediction in predictions:
                print(dump_json(prediction.to_json()), flush=True)
        else:
            show_predictions(predictions, make_console())
        show_notes(f"fastcifar: {error}" for error in unreadable)
        return 1 if unreadable else 0
