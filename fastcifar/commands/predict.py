"""`fastcifar predict`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fastcifar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show the most likely classes of pictures, with their probabilities.

    Pictures of any size are resized to the network's input with Pillow's antialiased bicubic filter, their proportions
    given up. Probabilities are the softmax of the logits, computed in float32."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Picture files, folders of them (.png, .jpg, .jpeg, .webp, .bmp; sorted, folders inside too), or '-' for one
    picture on the standard input."""
    checkpoint: Literal["best", "last"] = "last"
    """The last epoch's weights, or the best epoch's."""
    top: int = 5
    """Classes to show of each picture."""
    device: str = "auto"
    """'cpu', 'cuda', …; 'auto' takes CUDA where there is a device."""
    json: bool = False
    """Print one JSON object a line, a line a picture, instead of a table."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top is {self.top}; it must be at least 1")
        if not self.images:
            raise ConfigError("no picture is named; name files or folders, or - for the standard input")

    def run(self) -> int:
        """Read the pictures and classify them."""
        from fastcifar.inference.evaluate import load_classifier
        from fastcifar.inference.predict import find_pictures, predict_pictures
        from fastcifar.report.summary import show_predictions

        saved = load_classifier(self.folder, self.checkpoint, device=self.device, amp=False)
        predictions = predict_pictures(saved, find_pictures(self.images), top=self.top)
        if not self.json:
            show_predictions(predictions, Console(highlight=False))
            return 0
        for prediction in predictions:
            print(json.dumps(prediction.to_json()), flush=True)
        return 0
