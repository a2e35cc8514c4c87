"""The arguments of `write_beton`: lists and arrays that mean the same are taken, everything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar.data.decode_all import decode_all
from fastcifar.data.writer import write_beton
from fastcifar.errors import DataError

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
NAMES = ("cat", "dog")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.ndarray.tolist, list),
        (list, lambda labels: [[int(label)] for label in labels]),
        (lambda images: images.astype(np.int64), lambda labels: labels.astype(np.float32)),
        (torch.from_numpy, torch.from_numpy),
        (np.asfortranarray, lambda labels: labels.astype(np.uint8).reshape(2, 1)),
    ],
    ids=["lists", "nested labels", "whole floats", "tensors", "other order in memory"],
)
def test_lists_and_arrays_of_other_types_are_taken(
    tmp_path: Path, images: Callable[[Any], Any], labels: Callable[[Any], Any]
) -> None:
    path = str(tmp_path / "a" / "train.beton")
    manifest = write_beton(path, images(IMAGES), labels(np.array([1, 0])), class_names=list(NAMES), name="pets")
    read_images, read_labels = decode_all(Path(path))
    assert np.array_equal(read_images, IMAGES)
    assert read_labels.tolist() == [1, 0]
    assert manifest.class_names == NAMES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 0.5]}, r"labels must be 2 whole numbers from 0 to 1, one per image; label 1 is 0\.5"),
        ({"labels": [0.9, 1.0]}, r"label 0 is 0\.9"),
        ({"labels": [0, float("nan")]}, "label 1 is nan"),
        ({"labels": [0, float("inf")]}, "label 1 is inf"),
        ({"labels": [-1, 0]}, "label 0 is -1"),
        ({"labels": [0, 2]}, "label 1 is 2"),
        ({"labels": [0, 1, 1]}, r"labels must be .*, not int64 \[3\]"),
        ({"labels": np.zeros((2, 2))}, r"labels must be .*, not float64 \[2, 2\]"),
        ({"labels": [[0], [0, 1]]}, "labels cannot become one array"),
        ({"labels": ["cat", "dog"]}, "labels must be 2 whole numbers"),
        ({"labels": None}, r"labels must be 2 whole numbers .*, not object \[\]"),
        ({"images": IMAGES[0]}, r"images must be uint8 \[N, H, W, 3\], not uint8 \[4, 4, 3\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"not uint8 \[2, 3, 4, 4\]"),
        ({"images": IMAGES / 255}, r"images must be uint8 \[N, H, W, 3\], not float64"),
        ({"images": IMAGES.astype(np.int16) - 1}, "images must be from 0 to 255; they are from -1 to 94"),
        ({"images": [IMAGES[0], IMAGES[1, :2]]}, "images cannot become one array"),
        ({"class_names": "ab"}, "class_names must be a list of names, not 'ab'"),
        ({"class_names": ("cat", 2)}, "class_names must be a list of names"),
        ({"class_names": ()}, "class_names must be a list of names"),
        ({"class_names": ("cat", "caf\udce9")}, r"class_names has 'caf\\udce9', which is not UTF-8"),
        ({"name": 3}, "name must be text, not 3"),
        ({"name": "caf\udce9"}, r"name has 'caf\\udce9', which is not UTF-8"),
        ({"class_names": ("cat", "cat")}, "class_names has 'cat' twice"),
    ],
)
def test_other_arguments_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"images": IMAGES, "labels": [0, 1], "class_names": NAMES, "name": "pets", **changes}
    with pytest.raises(DataError, match=rf"a\.beton: {message}|a\.beton: .*{message}"):
        write_beton(tmp_path / "a.beton", **values)
    assert list(tmp_path.iterdir()) == []
