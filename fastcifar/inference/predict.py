"""Predict the classes of image files."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastcifar.data.image_folder import PICTURES as TRAINING_PICTURES
from fastcifar.data.image_folder import decode_picture
from fastcifar.data.images import Images
from fastcifar.errors import DataError
from fastcifar.inference.evaluate import LoadedCheckpoint

PICTURES = TRAINING_PICTURES | {".webp", ".bmp"}
"""Extensions of the files that are read from a folder. A file that is given by its own path may have any extension."""
STANDARD_INPUT = Path("-")
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class LikelyClass:
    """A class and its probability."""

    class_name: str
    probability: float
    """The softmax of the class's logit, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class PicturePrediction:
    """The most likely classes of an image, in order of decreasing probability."""

    image: str
    """The path of the file, or "-" for the standard input."""
    likely: tuple[LikelyClass, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the image's path and its classes as plain JSON values."""
        likely = [{"class": each.class_name, "probability": each.probability} for each in self.likely]
        return {"image": self.image, "predictions": likely}


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """List the given files and, for each folder, the image files in it and in its subfolders, sorted.

    Raises:
        DataError: a file does not exist, or a folder contains no image file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
            pictures = sorted(file for file in files if not file.name.startswith("."))
            if not pictures:
                raise DataError(f"{path}: the folder has no {', '.join(sorted(PICTURES))} file; choose another folder")
            found += pictures
        elif path == STANDARD_INPUT or path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder; check the path")
    return found


def predict_pictures(
    loaded: LoadedCheckpoint, pictures: Sequence[Path], *, top: int = 5
) -> Iterator[PicturePrediction]:
    """Read images, resize them to the network's input size, and yield each one's `top` most likely classes, in order.

    Images of the input size are not changed. Others are resized to it without keeping their aspect ratio.

    Raises:
        DataError: a file cannot be read as an image.
    """
    height, width, _ = loaded.image_shape
    for start in range(0, len(pictures), BATCH):
        files = pictures[start : start + BATCH]
        images = np.stack([_read(file, (width, height)) for file in files])
        for file, likely in zip(files, classify(loaded, images, top=top), strict=True):
            yield PicturePrediction(image=str(file), likely=likely)


@torch.no_grad()
def classify(loaded: LoadedCheckpoint, images: Images, *, top: int = 5) -> list[tuple[LikelyClass, ...]]:
    """Return the `top` most likely classes of each image, uint8 [N, H, W, 3]; all classes if there are fewer."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(loaded.classifier.runtime.device)
    best = loaded.classifier.logits(batch).softmax(dim=1).topk(min(top, len(loaded.class_names)), dim=1)
    names = loaded.class_names
    return [
        tuple(LikelyClass(class_name=names[label], probability=value) for value, label in zip(*likely, strict=True))
        for likely in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _read(file: Path, size: tuple[int, int]) -> Images:
    return decode_picture(io.BytesIO(sys.stdin.buffer.read()) if file == STANDARD_INPUT else file, size)
