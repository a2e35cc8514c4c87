from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastcifar.data.corrupted_files import list_kinds, open_corrupted_files
from fastcifar.errors import DataError

SAMPLES = 6


def _open(folder: Path, *kinds: str) -> None:
    open_corrupted_files(folder, kinds, image_shape=(32, 32, 3), classes=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two kinds of corruption; the first pixel of each image is its position in the file."""
    images = np.zeros((5 * SAMPLES, 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(5 * SAMPLES)
    for kind in ("fog", "spatter"):
        np.save(tmp_path / f"{kind}.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(SAMPLES, dtype=np.uint8), 5))
    return tmp_path


def test_a_severity_is_a_fifth_of_a_file_that_stays_on_the_disk(folder: Path) -> None:
    files = open_corrupted_files(folder, ["fog", "spatter"], image_shape=(32, 32, 3), classes=10)
    assert files.samples == SAMPLES
    images, labels = files.part("spatter", 3)
    assert images[:, 0, 0, 0].tolist() == list(range(2 * SAMPLES, 3 * SAMPLES))
    assert labels.tolist() == list(range(SAMPLES))
    assert all(isinstance(each, np.memmap) for each in files.images.values())
    assert list_kinds(folder, ["saturate", "spatter"]) == ["spatter"]


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no snow.npy, frost.npy; unpack the whole archive .* --kinds"):
        _open(folder, "fog", "snow", "frost")
    (folder / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"has no labels.npy"):
        _open(folder, "fog")
    with pytest.raises(DataError, match=r"nowhere: is not a folder"):
        _open(tmp_path / "nowhere", "fog")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(29, dtype=np.uint8), r"labels.npy: has uint8 \[29\]; it must have whole numbers"),
        (np.zeros((30, 1), dtype=np.uint8), r"has uint8 \[30, 1\]"),
        (np.zeros(30), r"has float64 \[30\]"),
        (np.zeros(0, dtype=np.uint8), r"has uint8 \[0\]"),
        (np.arange(30), "has labels from 0 to 29, but the network has 10 classes"),
        (np.arange(30) - 20, "has labels from -20 to 9"),
    ],
)
def test_odd_labels_are_refused(labels: np.ndarray, message: str, folder: Path) -> None:
    np.save(folder / "labels.npy", labels)
    with pytest.raises(DataError, match=message):
        _open(folder, "fog")


@pytest.mark.parametrize("form", ["pixels", "size", "count", "object", "cut", "text", "archive"])
def test_odd_images_are_refused(form: str, folder: Path) -> None:
    path = folder / "fog.npy"
    images = np.load(path)
    if form == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif form == "text":
        path.write_text("<html>not found</html>")
    elif form == "archive":
        np.savez(folder / "fog.npz", images)
        (folder / "fog.npz").rename(path)
    else:
        odd = {"pixels": images / 255, "size": images[:, 1:], "count": images[1:], "object": np.array([{}])}
        np.save(path, odd[form], allow_pickle=True)
    with pytest.raises(DataError, match=r"fog.npy: (has|cannot be read as|is an archive)"):
        _open(folder, "fog")
    _open(folder, "spatter")
