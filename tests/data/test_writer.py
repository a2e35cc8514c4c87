"""Writing .beton files: the images read back, and a failure leaves the old files."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastcifar.data import beton_format
from fastcifar.data.beton_format import read_index
from fastcifar.data.create import create_loader
from fastcifar.data.decode_all import decode_all
from fastcifar.data.manifest import manifest_path, open_beton, read_manifest
from fastcifar.data.sources import open_source
from fastcifar.data.writer import channel_statistics, write_beton
from fastcifar.errors import DataError
from fastcifar.files import lock_folder
from fastcifar.machine import anonymous_bytes
from tests.data.conftest import NAMES


def test_pixels_and_labels_read_back_through_ffcv(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    images, read_labels = decode_all(file)
    assert np.array_equal(images, pictures)
    assert np.array_equal(read_labels, labels)


def test_images_of_many_batches_read_back(
    file: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.data.decode_all.DECODE_BYTES", 5 * pictures[0].nbytes)
    images, read_labels = decode_all(file)
    assert np.array_equal(images, pictures)
    assert np.array_equal(read_labels, labels)
    assert (images.dtype, read_labels.dtype) == (np.uint8, np.int64)


def test_images_that_fill_several_pages_read_back(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (11, 1000, 900, 3), dtype=np.uint8)
    path = tmp_path / "large.beton"
    write_beton(path, images, np.zeros(11, dtype=np.int64), class_names=("all",), name="noise")
    assert np.array_equal(decode_all(path)[0], images)


def test_images_that_are_not_square_read_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 40, 3), dtype=np.uint8)
    manifest = write_beton(
        tmp_path / "a.beton", images, np.zeros(5, dtype=np.int64), class_names=("all",), name="noise"
    )
    assert manifest.image_shape == (1, 40, 3)
    assert read_manifest(tmp_path / "a.beton") == manifest
    assert np.array_equal(decode_all(tmp_path / "a.beton")[0], images)
    assert np.array_equal(read_index(tmp_path / "a.beton").images(), images)


def test_tables_and_images_on_many_small_pages_read_back(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beton_format, "PAGE_SIZE", 4096)  # less than the tables; one image per page
    path = tmp_path / "deep" / "folder" / "small.beton"
    pictures, labels = np.concatenate((pictures, pictures[::-1])), np.concatenate((labels, labels))
    seen: list[int] = []
    write_beton(path, pictures, labels, class_names=NAMES, name="noise", progress=seen.append)
    assert seen == list(range(1, 129))
    index = read_index(path)
    assert index.offsets.tolist() == [8192 + 4096 * number for number in range(128)]
    for images, read_labels in (decode_all(path), (index.images(), index.labels)):
        assert np.array_equal(images, pictures)
        assert np.array_equal(read_labels, labels)
    pages = np.frombuffer(path.read_bytes(), dtype=np.uint8)[8192 : 8192 + 128 * 4096].reshape(128, 4096)
    assert not pages[:, 3072:].any(), "the rest of each page is zeros"


def test_a_large_data_set_is_written_and_read_in_little_memory(tmp_path: Path) -> None:
    bytes_per_image, count = 96 * 96 * 3, 6000  # 166 MB
    images = np.memmap(tmp_path / "pixels", dtype=np.uint8, mode="w+", shape=(count, 96, 96, 3))
    labels = np.zeros(count, dtype=np.int64)
    path = tmp_path / "a.beton"

    def write_and_read() -> None:
        write_beton(path, images, labels, class_names=NAMES, name="noise")
        with create_loader(path, batch_size=100, train=True, seed=1) as loader:
            assert sum(len(batch) for batch, _ in loader.batches()) == count

    assert _peak_growth(write_and_read) < 0.6 * count * bytes_per_image


def _peak_growth(function: Callable[[], None]) -> int:
    """Return by how many bytes the memory of this process, without mapped files, grows at most during a call."""
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return peak - before


def test_a_file_of_ffcvs_own_writer_passes_the_check(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    path = tmp_path / "ffcv.beton"
    writer = DatasetWriter(str(path), {"image": RGBImageField(), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset([(image, int(label)) for image, label in zip(pictures, labels, strict=True)])
    assert np.array_equal(read_index(path).images(), pictures)
    assert np.array_equal(decode_all(path)[1], labels)


def test_the_same_images_give_the_same_bytes(
    tmp_path: Path, file: Path, pictures: np.ndarray, labels: np.ndarray
) -> None:
    again = tmp_path / "again.beton"
    write_beton(again, pictures, labels, class_names=NAMES, name="noise")
    assert again.read_bytes() == file.read_bytes()


def test_progress_counts_the_images(tmp_path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    seen: list[int] = []
    write_beton(tmp_path / "a.beton", pictures, labels, class_names=NAMES, name="noise", progress=seen.append)
    assert seen[-1] == 64


def test_a_full_disk_leaves_the_old_file(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        write_beton(file, pictures[::-1], labels, class_names=NAMES, name="noise", progress=full)
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_file_that_reads_back_differently_is_refused(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray
) -> None:
    def change_a_pixel(_: int) -> None:
        (temporary,) = tmp_path.glob(".a.beton.*.tmp")
        with temporary.open("r+b") as file:
            file.seek(beton_format.PAGE_SIZE)
            file.write(bytes([pictures[0, 0, 0, 0] ^ 1]))

    with pytest.raises(DataError, match="reading it back gives different data"):
        write_beton(tmp_path / "a.beton", pictures, labels, class_names=NAMES, name="noise", progress=change_a_pixel)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 32, 32), dtype=np.uint8), np.zeros(2, dtype=np.int64), r"must be uint8 \[N, H, W, 3\]"),
        (np.zeros((2, 32, 32, 3)), np.zeros(2, dtype=np.int64), "not float64"),
        (np.zeros((0, 32, 32, 3), dtype=np.uint8), np.zeros(0, dtype=np.int64), "must be uint8"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), np.zeros(3, dtype=np.int64), "2 whole numbers from 0 to 1"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), np.array([0, 2]), "2 whole numbers from 0 to 1.*label 1 is 2"),
        (
            np.zeros((1, 2000, 1999, 3), dtype=np.uint8),
            np.zeros(1, dtype=np.int64),
            "2000 × 1999 pixels do not fit in a page",
        ),
        (np.zeros((1, 0, 32, 3), dtype=np.uint8), np.zeros(1, dtype=np.int64), "0 × 32 pixels do not fit in a page"),
    ],
)
def test_unsuitable_images_and_labels_are_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.beton: .*{message}"):
        write_beton(tmp_path / "a.beton", images, labels, class_names=NAMES, name="noise")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("renames", [1, 2])
def test_a_writer_stopped_between_its_renames_leaves_a_file_with_its_manifest(
    file: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The three renames: of the new manifest beside the old one, of the .beton, and of the manifest to its place."""
    images, labels = np.full((30, 32, 32, 3), 7, dtype=np.uint8), np.zeros(30, dtype=np.int64)
    rename, done = os.replace, []

    def stopped(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise OSError(errno.EIO, "gone", str(target))
        done.append(target)
        rename(source, target)

    before = read_manifest(file)
    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(OSError, match="gone"):
        write_beton(file, images, labels, class_names=("one",), name="made")
    monkeypatch.undo()
    _, manifest = open_beton(file)
    assert manifest == before if renames == 1 else manifest.samples == 30
    write_beton(file, images, labels, class_names=("one",), name="made")
    assert open_beton(file)[1].samples == 30
    assert sorted(entry.name for entry in file.parent.iterdir()) == [file.name, manifest_path(file).name]


def test_a_second_writer_to_a_folder_is_refused(file: Path) -> None:
    images, labels = np.zeros((2, 32, 32, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    with (
        lock_folder(file.parent, OSError()),
        pytest.raises(DataError, match="another process writes to this folder"),
    ):
        write_beton(file, images, labels, class_names=("one",), name="made")
    write_beton(file, images, labels, class_names=("one",), name="made")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    (tmp_path / "train.beton").mkdir()
    with pytest.raises(DataError, match=r"train\.beton: is a folder; choose another name"):
        write_beton(tmp_path / "train.beton", pictures, labels, class_names=("one", "two"), name="made")
    assert [path.name for path in tmp_path.iterdir()] == ["train.beton"]


def test_channel_statistics_are_equal_to_numpys_in_float64(pictures: np.ndarray) -> None:
    mean, std = channel_statistics(pictures)
    pixels = pictures.reshape(-1, 3).astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(axis=0), abs=1e-13)
    assert std == pytest.approx(pixels.std(axis=0), abs=1e-13)


@pytest.mark.cifar
def test_every_image_of_cifar10_reads_back_through_ffcv(cifar_betons: Path) -> None:
    source = open_source(os.environ["FASTCIFAR_DATA"])
    for split, expected in (("train", source.train), ("test", source.test)):
        images, labels = decode_all(cifar_betons / f"{split}.beton")
        assert np.array_equal(images, expected.images)
        assert np.array_equal(labels, expected.labels)
