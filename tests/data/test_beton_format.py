"""The bytes of a .beton: equal to FFCV's format, and checked before they are used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastcifar.data.beton_format import ALLOCATION, FIELD, HEADER, SAMPLE, read_index
from fastcifar.data.decode_all import decode_all
from fastcifar.data.writer import write_beton
from fastcifar.errors import DataError
from tests.data.conftest import NAMES


def test_pixels_read_back_without_ffcv(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    index = read_index(file)
    assert np.array_equal(index.images(), pictures)
    assert (index.images().dtype, index.labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(index.labels, labels)


def test_the_format_is_equal_to_ffcvs() -> None:
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, get_metadata_type

    assert HeaderType == HEADER
    assert FieldDescType == FIELD
    assert ALLOC_TABLE_TYPE == ALLOCATION
    sample = get_metadata_type([RGBImageField(), IntField()])
    assert sample.itemsize == SAMPLE.itemsize
    assert [sample.fields[name][1] for name in sample.names] == [SAMPLE.fields[name][1] for name in SAMPLE.names]
    assert sample["f0"] == SAMPLE["image"]


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
        ("version", 1, "is not a .beton of version 2"),
        ("num_fields", 3, "it has 3 fields, not one RGB image and one integer label; `fastcifar adopt .* --rewrite"),
        ("page_size", 0, "page size"),
        ("page_size", 3, "power of two"),
        ("num_samples", 0, "does not fit the"),
        ("num_samples", 65, "does not fit the"),
        ("num_samples", 2**63, "does not fit the"),
        ("alloc_table_ptr", 0, "it is incomplete: it has no allocation table"),
        ("alloc_table_ptr", 2**63, "does not fit the"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(file: Path, field: str, value: int, message: str) -> None:
    _edit(file, HEADER, 0, **{field: value})
    with pytest.raises(DataError, match=rf"train\.beton: .*{message}"):
        read_index(file)


def test_a_file_without_images_is_refused(file: Path) -> None:
    _edit(file, HEADER, 0, num_samples=0, alloc_table_ptr=file.stat().st_size)
    with pytest.raises(DataError, match=r"train\.beton: its size, \d+ bytes, does not fit the 0 samples"):
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
        with pytest.raises(
            DataError, match=r"train\.beton: an image lies outside the pages of the file; write it again"
        ):
            read_index(file)


@pytest.mark.parametrize("values", [{"size": 1}, {"ptr": 4096}, {"sample_id": 7}, {"sample_id": 2**63}])
def test_an_allocation_table_that_disagrees_is_refused(file: Path, values: dict[str, int]) -> None:
    _edit(file, ALLOCATION, file.stat().st_size - ALLOCATION.itemsize, **values)
    with pytest.raises(DataError, match=r"train\.beton: its allocation table does not match its images; write it"):
        read_index(file)


def test_an_allocation_table_may_have_any_order(file: Path, pictures: np.ndarray) -> None:
    """FFCV's workers write its rows in any order."""
    data = bytearray(file.read_bytes())
    table = np.frombuffer(data, dtype=ALLOCATION, count=64, offset=len(data) - 64 * ALLOCATION.itemsize)
    table[:] = table[np.random.default_rng(0).permutation(64)].copy()
    file.write_bytes(data)
    assert np.array_equal(read_index(file).images(), pictures)


@pytest.mark.parametrize(("field", "value"), [("mode", 0), ("width", 16), ("height", 0)])
def test_an_image_of_another_mode_or_size_is_refused(file: Path, field: str, value: int) -> None:
    _edit(file, SAMPLE["image"], FIRST_SAMPLE + SAMPLE.itemsize, **{field: value})
    with pytest.raises(DataError, match=r"train\.beton: its images are not all uncompressed and of the same size"):
        read_index(file)


@pytest.mark.parametrize(("height", "width"), [(0, 32), (32, 0), (2000, 2000)])
def test_images_without_pixels_or_larger_than_a_page_are_refused(file: Path, height: int, width: int) -> None:
    for sample in range(64):
        _edit(file, SAMPLE["image"], FIRST_SAMPLE + sample * SAMPLE.itemsize, height=height, width=width)
    with pytest.raises(DataError, match=rf"train\.beton: its images are {height} × {width} pixels"):
        read_index(file)


@pytest.mark.parametrize("size", [0, 1, 100, 3000, 5000, 1_000_000])
def test_a_truncated_file_is_refused(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(
        DataError, match=r"train\.beton: (its size, \d+ bytes, does not fit|the file is truncated).*; write it again"
    ):
        read_index(file)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.beton: there is no such file; `fastcifar write-beton` creates it"):
        read_index(tmp_path / "none.beton")
    with pytest.raises(DataError, match=rf"{tmp_path.name}: cannot be read: Is a directory"):
        read_index(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(10_000))
    with pytest.raises(DataError, match=r"is not a \.beton of version 2"):
        read_index(path)


def test_fields_of_another_type_are_refused(file: Path) -> None:
    _edit(file, FIELD, HEADER.itemsize, type_id=5)
    with pytest.raises(DataError, match=r"train\.beton: its fields are not one RGB image and then one integer label"):
        read_index(file)
