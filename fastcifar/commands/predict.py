"""`fastcifar predict`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.commands.shared import apply_settings_of
from fastcifar.errors import ConfigError
from fastcifar.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show the most likely classes of image files, with their probabilities.

    Images of any size are resized to the network's input size with Pillow's antialiased bicubic filter, without keeping
    their aspect ratio. Probabilities are the softmax of the logits, computed in float32.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files, folders that are searched for them (.png, .jpg, .jpeg, .webp, .bmp; sorted by path, with
    subfolders), or '-' to read one image from standard input."""
    checkpoint: Literal["best", "last"] = "last"
    """Checkpoint to load: that of the last epoch, or of the epoch with the highest accuracy."""
    top: int = 5
    """Number of classes to show per image."""
    device: str = RuntimeSettings.device
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""
    json: bool = False
    """Print one JSON object per line and image instead of a table."""

    def __post_init__(self) -> None:
        check(self, top=AT_LEAST_1)
        if not self.images:
            raise ConfigError("no image is given; name files or folders, or - for standard input")

    def run(self) -> int:
        """Read the images, classify them and print the result."""
        from fastcifar.inference.evaluate import load_classifier
        from fastcifar.inference.predict import find_pictures, predict_pictures
        from fastcifar.report.summary import show_predictions

        apply_settings_of(self.folder, self.device)
        saved = load_classifier(self.folder, self.checkpoint, device=self.device, amp=False)
        predictions = predict_pictures(saved, find_pictures(self.images), top=self.top)
        if not self.json:
            show_predictions(predictions, Console(highlight=False))
            return 0
        for prediction in predictions:
            print(json.dumps(prediction.to_json()), flush=True)
        return 0
