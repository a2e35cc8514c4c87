from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastcifar.data import writer as beton_module
from fastcifar.data import loader as loader_module
from fastcifar.data.manifest import CIFAR10_CONTENT, manifest_path, open_beton, read_manifest
from fastcifar.data.writer import channel_statistics, write_beton
from fastcifar.data.manifest import content_sha256
from fastcifar.data.beton_format import ALLOCATION, FIELD, HEADER, SAMPLE, read_index
from fastcifar.data.loader import decode_all
from fastcifar.data.sources import open_source
from fastcifar.errors import DataError
from fastcifar.files import FolderLock

NAMES = ("left", "right")


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(64, dtype=np.int64) % 2


@pytest.fixture
def file(tmp_path: Path, pictures: np.ndarray, labels: np.ndarray) -> Path:
    path = tmp_path / "train.beton"
    write_beton(path, pictures, labels, class_names=NAMES, name="noise")
    return path


def test_pixels_and_labels_read_back_through_ffcv(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    images, read_labels = decode_all(file)
    assert np.array_equal(images, pictures)
    assert np.array_equal(read_labels, labels)


def test_images_of_many_batches_read_back(
    file: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "DECODE_BYTES", 5 * pictures[0].nbytes)
    images, read_labels = decode_all(file)
    assert np.array_equal(images, pictures)
    assert np.array_equal(read_labels, labels)
    assert (images.dtype, read_labels.dtype) == (np.uint8, np.int64)


def test_pixels_read_back_without_ffcv(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    layout = read_index(file)
    assert np.array_equal(layout.images(), pictures)
    assert (layout.images().dtype, layout.labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(layout.labels, labels)


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


def test_tables_and_images_that_take_many_small_pages_read_back(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beton_module, "PAGE_SIZE", 4096)  # less than the tables; one image a page
    path = tmp_path / "deep" / "folder" / "small.beton"
    pictures, labels = np.concatenate((pictures, pictures[::-1])), np.concatenate((labels, labels))
    seen: list[int] = []
    write_beton(path, pictures, labels, class_names=NAMES, name="noise", progress=seen.append)
    assert seen == list(range(1, 129))
    layout = read_index(path)
    assert layout.offsets.tolist() == [8192 + 4096 * number for number in range(128)]
    for images, read_labels in (decode_all(path), (layout.images(), layout.labels)):
        assert np.array_equal(images, pictures)
        assert np.array_equal(read_labels, labels)
    pages = np.frombuffer(path.read_bytes(), dtype=np.uint8)[8192 : 8192 + 128 * 4096].reshape(128, 4096)
    assert not pages[:, 3072:].any(), "what is left of a page is zeros"


def test_the_layout_is_that_of_ffcv() -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, get_metadata_type

    assert HeaderType == HEADER
    assert FieldDescType == FIELD
    assert ALLOC_TABLE_TYPE == ALLOCATION
    sample = get_metadata_type([RGBImageField(), IntField()])
    assert sample.itemsize == SAMPLE.itemsize
    assert [sample.fields[name][1] for name in sample.names] == [SAMPLE.fields[name][1] for name in SAMPLE.names]
    assert sample["f0"] == SAMPLE["image"]


def test_ffcvs_own_writer_makes_a_file_that_passes_the_check(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
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


def test_the_manifest_tells_what_the_file_holds(file: Path, pictures: np.ndarray) -> None:
    manifest = read_manifest(file)
    assert manifest.samples == 64
    assert manifest.image_shape == (32, 32, 3)
    assert manifest.class_names == NAMES
    assert manifest.name == "noise"
    assert manifest.file_size == file.stat().st_size
    assert manifest.content_sha256 == content_sha256(pictures, np.arange(64, dtype=np.int64) % 2)
    pixels = pictures.reshape(-1, 3) / 255
    assert manifest.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert manifest.std == pytest.approx(pixels.std(axis=0), abs=1e-12)


def test_progress_counts_the_images(tmp_path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    seen: list[int] = []
    write_beton(tmp_path / "a.beton", pictures, labels, class_names=NAMES, name="noise", progress=seen.append)
    assert seen[-1] == 64


def test_a_full_disk_leaves_the_old_file(
    file: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(beton_module, "_write_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_beton(file, pictures[::-1], labels, class_names=NAMES, name="noise")
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_file_that_reads_back_otherwise_is_refused(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = beton_module._write_file
    monkeypatch.setattr(beton_module, "_write_file", lambda path, images, *rest: write(path, images[::-1], *rest))
    with pytest.raises(DataError, match="differs from what was written"):
        write_beton(tmp_path / "a.beton", pictures, labels, class_names=NAMES, name="noise")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 32, 32), dtype=np.uint8), np.zeros(2, dtype=np.int64), r"must be uint8 \[N, H, W, 3\]"),
        (np.zeros((2, 32, 32, 3)), np.zeros(2, dtype=np.int64), "not float64"),
        (np.zeros((0, 32, 32, 3), dtype=np.uint8), np.zeros(0, dtype=np.int64), "must be uint8"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), np.zeros(3, dtype=np.int64), "one label from 0 to 1"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), np.array([0, 2]), "one label from 0 to 1"),
        (np.zeros((1, 2000, 1999, 3), dtype=np.uint8), np.zeros(1, dtype=np.int64), "2000 × 1999 pixels do not fit"),
        (np.zeros((1, 0, 32, 3), dtype=np.uint8), np.zeros(1, dtype=np.int64), "0 × 32 pixels do not fit a page"),
    ],
)
def test_unfit_images_are_refused(tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.beton: .*{message}"):
        write_beton(tmp_path / "a.beton", images, labels, class_names=NAMES, name="noise")
    assert list(tmp_path.iterdir()) == []


def _edit(path: Path, dtype: np.dtype[np.void], offset: int, **values: int) -> None:
    data = bytearray(path.read_bytes())
    record = np.frombuffer(data, dtype=dtype, count=1, offset=offset)[0]
    for name, value in values.items():
        record[name] = value
    path.write_bytes(data)


FIRST_SAMPLE = HEADER.itemsize + 2 * FIELD.itemsize


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 1, "no .beton of version 2"),
        ("num_fields", 3, "with 2 fields"),
        ("page_size", 0, "page size"),
        ("page_size", 3, "power of two"),
        ("num_samples", 0, "do not fit"),
        ("num_samples", 65, "do not fit"),
        ("num_samples", 2**63, "do not fit"),
        ("alloc_table_ptr", 0, "interrupted"),
        ("alloc_table_ptr", 2**63, "do not fit"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(file: Path, field: str, value: int, message: str) -> None:
    _edit(file, HEADER, 0, **{field: value})
    with pytest.raises(DataError, match=rf"train\.beton: .*{message}"):
        read_index(file)


def test_a_file_of_no_images_is_refused(file: Path) -> None:
    _edit(file, HEADER, 0, num_samples=0, alloc_table_ptr=file.stat().st_size)
    with pytest.raises(DataError, match=r"train\.beton: its \d+ bytes do not fit the 0 samples"):
        read_index(file)


def test_a_file_of_one_image_reads_back(tmp_path: Path, pictures: np.ndarray) -> None:
    write_beton(tmp_path / "one.beton", pictures[:1], np.zeros(1, dtype=np.int64), class_names=NAMES, name="noise")
    assert np.array_equal(read_index(tmp_path / "one.beton").images(), pictures[:1])
    assert np.array_equal(decode_all(tmp_path / "one.beton")[0], pictures[:1])


def test_an_image_outside_the_file_is_refused(file: Path) -> None:
    offset = FIRST_SAMPLE + SAMPLE["image"].fields["data_ptr"][1]
    tables_end = FIRST_SAMPLE + 64 * SAMPLE.itemsize
    pixels_end = file.stat().st_size - 64 * ALLOCATION.itemsize
    for pointer in (0, tables_end - 1, pixels_end - 3071, file.stat().st_size, 2**64 - 1):
        _edit(file, np.dtype([("ptr", "<u8")]), offset, ptr=pointer)
        with pytest.raises(DataError, match=r"train\.beton: an image lies outside the file's pages; write it again"):
            read_index(file)


@pytest.mark.parametrize("values", [{"size": 1}, {"ptr": 4096}, {"sample_id": 7}, {"sample_id": 2**63}])
def test_an_allocation_table_that_disagrees_is_refused(file: Path, values: dict[str, int]) -> None:
    _edit(file, ALLOCATION, file.stat().st_size - ALLOCATION.itemsize, **values)
    with pytest.raises(DataError, match=r"train\.beton: its allocation table disagrees with its images; write it"):
        read_index(file)


def test_an_allocation_table_may_have_any_order(file: Path, pictures: np.ndarray) -> None:
    """FFCV's workers write to it as they come."""
    data = bytearray(file.read_bytes())
    table = np.frombuffer(data, dtype=ALLOCATION, count=64, offset=len(data) - 64 * ALLOCATION.itemsize)
    table[:] = table[np.random.default_rng(0).permutation(64)].copy()
    file.write_bytes(data)
    assert np.array_equal(read_index(file).images(), pictures)


@pytest.mark.parametrize(("field", "value"), [("mode", 0), ("width", 16), ("height", 0)])
def test_an_image_of_another_kind_is_refused(file: Path, field: str, value: int) -> None:
    _edit(file, SAMPLE["image"], FIRST_SAMPLE + SAMPLE.itemsize, **{field: value})
    with pytest.raises(DataError, match=r"train\.beton: its images are not raw pixels of one size"):
        read_index(file)


@pytest.mark.parametrize(("height", "width"), [(0, 32), (32, 0), (2000, 2000)])
def test_images_of_no_size_or_larger_than_a_page_are_refused(file: Path, height: int, width: int) -> None:
    for sample in range(64):
        _edit(file, SAMPLE["image"], FIRST_SAMPLE + sample * SAMPLE.itemsize, height=height, width=width)
    with pytest.raises(DataError, match=rf"train\.beton: its images are {height} × {width} pixels"):
        read_index(file)


@pytest.mark.parametrize("size", [0, 1, 100, 3000, 5000, 1_000_000])
def test_a_truncated_file_is_refused(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(
        DataError, match=r"train\.beton: (its \d+ bytes do not fit|the file is cut off).*; write it again"
    ):
        read_index(file)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.beton: there is no such file; `fastcifar write-beton` makes it"):
        read_index(tmp_path / "none.beton")
    with pytest.raises(DataError, match=rf"{tmp_path.name}: cannot be read: Is a directory"):
        read_index(tmp_path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(10_000))
    with pytest.raises(DataError, match=r"no \.beton of version 2"):
        read_index(path)


def test_fields_of_another_kind_are_refused(file: Path) -> None:
    _edit(file, FIELD, HEADER.itemsize, type_id=5)
    with pytest.raises(DataError, match=r"train\.beton: its fields are not one RGB image and one integer label"):
        read_index(file)


def test_a_changed_pixel_is_found_by_the_hash_alone(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[int(read_index(file).offsets[5])] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="file_sha256"):
        open_beton(file)
    open_beton(file, verify=False)


@pytest.mark.parametrize(("field", "value"), [("samples", 65), ("image_shape", [32, 31, 3]), ("file_size", 1)])
def test_a_manifest_that_disagrees_is_refused(file: Path, field: str, value: object) -> None:
    values = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps({**values, field: value}))
    with pytest.raises(DataError, match=field):
        open_beton(file, verify=False)


def test_labels_outside_the_classes_are_refused(file: Path) -> None:
    values = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps({**values, "class_names": ["one"]}))
    with pytest.raises(DataError, match="labels outside its 1 classes"):
        open_beton(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"samples": 1}', "nonsense", "null"])
def test_a_manifest_that_is_none_is_refused(file: Path, text: str) -> None:
    manifest_path(file).write_text(text)
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        read_manifest(file)


def test_a_manifest_of_another_version_is_refused(file: Path) -> None:
    manifest = dataclasses.asdict(read_manifest(file))
    manifest_path(file).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        read_manifest(file)


@pytest.mark.parametrize("renames", [1, 2])
def test_a_writer_that_is_stopped_between_its_renames_leaves_a_file_with_its_manifest(
    file: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The renames are of the waiting manifest, of the .beton, and of the manifest to its place."""
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
    lock = FolderLock(file.parent)
    images, labels = np.zeros((2, 32, 32, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    with pytest.raises(DataError, match="another process writes to this folder"):
        write_beton(file, images, labels, class_names=("one",), name="made")
    lock.release()
    write_beton(file, images, labels, class_names=("one",), name="made")


def test_a_missing_file_or_manifest_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.beton: there is no such file; `fastcifar write-beton` makes it"):
        open_beton(tmp_path / "none.beton")
    manifest_path(file).unlink()
    with pytest.raises(DataError, match=r"train\.beton\.json: there is no such file"):
        open_beton(file)


def test_the_content_is_known_by_its_values_whatever_their_order_in_memory(
    pictures: np.ndarray, labels: np.ndarray
) -> None:
    expected = hashlib.sha256(pictures.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert content_sha256(pictures, labels) == expected
    assert content_sha256(np.asfortranarray(pictures), labels.astype(np.int32)) == expected  # type: ignore[arg-type]


def test_statistics_are_those_of_numpy_in_float64(pictures: np.ndarray) -> None:
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


@pytest.mark.cifar
def test_cifar10_is_recognised_by_its_content_and_has_the_known_statistics(cifar_betons: Path) -> None:
    train, test = (read_manifest(cifar_betons / f"{split}.beton") for split in ("train", "test"))
    assert (train.name, test.name) == ("cifar10", "cifar10")
    assert train.content_sha256 == CIFAR10_CONTENT["train"]
    assert test.content_sha256 == CIFAR10_CONTENT["test"]
    assert train.mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=5e-9)
    assert train.std == pytest.approx((0.24703223, 0.24348513, 0.26158784), abs=5e-9)
