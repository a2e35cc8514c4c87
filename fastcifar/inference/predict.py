"""What a run's network says of picture files."""

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
"""What is taken for a picture in a folder; a file that is named is opened whatever its suffix."""
STANDARD_INPUT = Path("-")
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class LikelyClass:
    """A class, and the softmax of its logit."""

    class_name: str
    probability: float
    """From 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class PicturePrediction:
    """A picture's most likely classes, the likeliest first."""

    image: str
    """The file, or "-" for the standard input."""
    likely: tuple[LikelyClass, ...]

    def to_json(self) -> dict[str, Any]:
        """The picture and its classes as plain JSON values."""
        likely = [{"class": each.class_name, "probability": each.probability} for each in self.likely]
        return {"image": self.image, "predictions": likely}


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and in place of a folder its pictures, those of its folders too, sorted.

    Raises:
        DataError: there is no such file, or a folder has no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
            pictures = sorted(file for file in files if not file.name.startswith("."))
            if not pictures:
                raise DataError(f"{path}: a folder without a {', '.join(sorted(PICTURES))} file; name another")
            found += pictures
        elif path == STANDARD_INPUT or path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: there is no such file or folder; check the path")
    return found


def predict_pictures(saved: LoadedCheckpoint, pictures: Sequence[Path], *, top: int = 5) -> Iterator[PicturePrediction]:
    """Read pictures, resize them to the network's input and give each one's `top` most likely classes, in order.

    Pictures of the input's own size are left as they are; others lose their proportions if those are not the input's.

    Raises:
        DataError: a file is no picture.
    """
    height, width, _ = saved.image_shape
    for start in range(0, len(pictures), BATCH):
        files = pictures[start : start + BATCH]
        images = np.stack([_read(file, (width, height)) for file in files])
        for file, likely in zip(files, classify(saved, images, top=top), strict=True):
            yield PicturePrediction(image=str(file), likely=likely)


@torch.no_grad()
def classify(saved: LoadedCheckpoint, images: Images, *, top: int = 5) -> list[tuple[LikelyClass, ...]]:
    """The `top` most likely classes of each of the images, uint8 [N, H, W, 3]; all of them if there are fewer."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(saved.classifier.runtime.device)
    best = saved.classifier.logits(batch).softmax(dim=1).topk(min(top, len(saved.class_names)), dim=1)
    return [
        tuple(
            LikelyClass(class_name=saved.class_names[label], probability=probability)
            for probability, label in zip(probabilities, labels, strict=True)
        )
        for probabilities, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _read(file: Path, size: tuple[int, int]) -> Images:
    return decode_picture(io.BytesIO(sys.stdin.buffer.read()) if file == STANDARD_INPUT else file, size)
