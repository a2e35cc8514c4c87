"""Predict the classes of image files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fastcifar.data.images import Images
from fastcifar.data.picture_files import PictureFiles, list_pictures
from fastcifar.data.pictures import decode_pictures, readable_path
from fastcifar.errors import DataError
from fastcifar.inference.evaluate import LoadedCheckpoint
from fastcifar.machine import usable_cores
from fastcifar.progress import OnProgress, Progress

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


def find_pictures(paths: Sequence[Path]) -> PictureFiles:
    """List the given files and, for each folder, the pictures in it and in its subfolders, sorted by path.

    A file that is given by its own path counts as a picture, whatever its suffix.

    Raises:
        DataError: a file does not exist, or a folder contains no picture.
    """
    found = PictureFiles([], [])
    for path in paths:
        if path.is_dir():
            pictures, others = list_pictures(path)
            if not pictures:
                raise DataError(f"{path}: the folder has no picture that can be read; choose another folder")
            found.pictures.extend(pictures)
            found.others.extend(others)
        elif path == STANDARD_INPUT or path.exists():
            found.pictures.append(path)
        else:
            raise DataError(f"{path}: no such file or folder; check the path")
    return found


def predict_pictures(
    loaded: LoadedCheckpoint,
    pictures: Sequence[Path],
    *,
    top: int = 5,
    on_unreadable: Callable[[DataError], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[PicturePrediction]:
    """Read images, resize them to the network's input size, and yield each one's `top` most likely classes, in order.

    Images of the input size are not changed. Others are resized to it without keeping their aspect ratio. All usable
    cores decode, and at most `BATCH` images are in memory.

    Args:
        loaded: the network.
        pictures: image files; "-" is the standard input.
        top: number of classes.
        on_unreadable: called with the error of each file that cannot be read, which is then left out.
        on_progress: called before each batch is predicted.

    Raises:
        DataError: a file cannot be read as an image, and `on_unreadable` is not given.
    """
    height, width, _ = loaded.image_shape
    for start in range(0, len(pictures), BATCH):
        if on_progress:
            on_progress(Progress(task="predicting", done=start, total=len(pictures)))
        files = pictures[start : start + BATCH]
        decoded = decode_pictures([_open(file) for file in files], (width, height), usable_cores())
        for image in decoded:
            if isinstance(image, DataError):
                if on_unreadable is None:
                    raise image
                on_unreadable(image)
        images = [image for image in decoded if not isinstance(image, DataError)]
        names = [file for file, image in zip(files, decoded, strict=True) if not isinstance(image, DataError)]
        if images:
            for file, likely in zip(names, classify(loaded, np.stack(images), top=top), strict=True):
                yield PicturePrediction(image=readable_path(file), likely=likely)


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


def _open(file: Path) -> Path | BinaryIO:
    return io.BytesIO(sys.stdin.buffer.read()) if file == STANDARD_INPUT else file
