"""The bytes of a .beton: FFCV's file format, version 2, for samples of one image and one label.

    header │ field descriptors │ samples' metadata │ zeros up to a page boundary │ pages of pixels │ allocation table

FFCV checks nothing when it opens a file, and follows its offsets even if they point outside the file. `read_index`
checks a file, and needs neither ffcv nor torch. Source of the format: ffcv/types.py, ffcv/writer.py and
ffcv/memory_allocator.py of libffcv/ffcv 1.0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastcifar.errors import DataError

VERSION = 2
PAGE_SIZE = 1 << 23
"""Bytes per page, FFCV's default. No image crosses a page boundary."""

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", 1024))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

FIELDS = {"image": 2, "label": 1}
"""The names of the fields, in order, and FFCV's ids of their types: an RGB image and an integer. A file of FFCV's own
writer may have other names."""
RAW = 1
"""FFCV's image mode for uncompressed pixels, height × width × RGB; 0 is JPEG."""


@dataclass(frozen=True, kw_only=True)
class BetonIndex:
    """The labels of a .beton and the position of each image in it, checked against the size of the file."""

    path: Path
    samples: int
    height: int
    width: int
    labels: npt.NDArray[np.int64]
    """int64 [N], in file order."""
    offsets: npt.NDArray[np.uint64]
    """uint64 [N], the position in the file of each image's first byte."""

    @property
    def image_bytes(self) -> int:
        """Bytes of pixels per image."""
        return self.height * self.width * 3

    def rows(self) -> npt.NDArray[np.uint8]:
        """Map the file: a view, uint8 [M, image_bytes], whose row `i` has the bytes of the file from `i` on.

        `rows()[offsets]` copies the pixels of the images that begin at these offsets.
        """
        data = np.memmap(self.path, dtype=np.uint8, mode="r")
        return np.lib.stride_tricks.sliding_window_view(data, self.image_bytes)

    def images(self, positions: Sequence[int] | slice = slice(None)) -> npt.NDArray[np.uint8]:
        """Read the pixels of all images or of those at the given positions, uint8 [N, H, W, 3], without FFCV."""
        return self.rows()[self.offsets[positions]].reshape(-1, self.height, self.width, 3)


def image_offsets(samples: int, image_bytes: int, page_size: int, metadata_end: int) -> npt.NDArray[np.uint64]:
    """Return the position of each of `samples` images in a file whose metadata ends at `metadata_end`: uint64 [N]."""
    first_page = -(-metadata_end // page_size)
    page, slot = np.divmod(np.arange(samples), page_size // image_bytes)
    offsets = (page + first_page) * page_size + slot * image_bytes
    return np.asarray(offsets, dtype=np.uint64)


def field_descriptors() -> npt.NDArray[np.void]:
    """Return the descriptors of the two fields, as FFCV writes them."""
    fields = np.zeros(len(FIELDS), dtype=FIELD)
    for field, (name, type_id) in zip(fields, FIELDS.items(), strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name.encode("ascii"), dtype=np.uint8)
    return fields


def read_index(path: Path) -> BetonIndex:
    """Read and check the header and the tables of a .beton.

    Raises:
        DataError: there is no such file, it is not a .beton of one image and one label per sample, is truncated, or
            an offset or a size in it points outside the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _read(path, file.read(HEADER.itemsize), HEADER, 1)[0]
            _check_header(path, header, size)
            fields = _read(path, file.read(FIELD.itemsize * len(FIELDS)), FIELD, len(FIELDS))
            count = int(header["num_samples"])
            samples = _read(path, file.read(SAMPLE.itemsize * count), SAMPLE, count)
            file.seek(int(header["alloc_table_ptr"]))
            allocations = _read(path, file.read(ALLOCATION.itemsize * count), ALLOCATION, count)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; `fastcifar write-beton` creates it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if fields["type_id"].tolist() != [*FIELDS.values()] or fields["arguments"].any():
        raise _unsupported(path, "its fields are not one RGB image and then one integer label")
    return _check_samples(path, header, samples, allocations)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; write it again with `fastcifar write-beton`")


def _unsupported(path: Path, what: str) -> DataError:
    """Create the error for a file that FFCV can write, but that is not of the kind that is read here."""
    return DataError(f"{path}: {what}; `fastcifar adopt {path} --rewrite NEW.beton` makes a copy that can be used")


def _read(path: Path, data: bytes, dtype: np.dtype[np.void], count: int) -> npt.NDArray[np.void]:
    if len(data) != dtype.itemsize * count:
        raise _damaged(path, "the file is truncated")
    return np.frombuffer(data, dtype=dtype, count=count)


def _check_header(path: Path, header: np.void, size: int) -> None:
    if header["version"] != VERSION:
        raise _damaged(path, f"it is not a .beton of version {VERSION}")
    page_size, samples, table = int(header["page_size"]), int(header["num_samples"]), int(header["alloc_table_ptr"])
    if page_size == 0 or page_size & (page_size - 1):
        raise _damaged(path, f"its page size, {page_size}, is not a power of two")
    if table == 0:
        raise _damaged(path, "it is incomplete: it has no allocation table")
    if header["num_fields"] != len(FIELDS):
        raise _unsupported(path, f"it has {header['num_fields']} fields, not one RGB image and one integer label")
    if samples == 0 or samples * SAMPLE.itemsize > size or table + samples * ALLOCATION.itemsize != size:
        raise _damaged(path, f"its size, {size} bytes, does not fit the {samples} samples in its header")


def _check_samples(
    path: Path, header: np.void, samples: npt.NDArray[np.void], allocations: npt.NDArray[np.void]
) -> BetonIndex:
    image = samples["image"]
    height, width = int(image["height"][0]), int(image["width"][0])
    if (image["mode"] != RAW).any() or (image["height"] != height).any() or (image["width"] != width).any():
        raise _unsupported(path, "its images are not all uncompressed and of the same size")
    image_bytes, page_size = height * width * 3, int(header["page_size"])
    if not 0 < image_bytes <= page_size:
        raise _damaged(path, f"its images are {height} × {width} pixels, which is not a valid size")
    offsets = image["data_ptr"]
    data_start = HEADER.itemsize + FIELD.itemsize * len(FIELDS) + SAMPLE.itemsize * len(samples)
    last_start = int(header["alloc_table_ptr"]) - image_bytes
    if last_start < data_start or (offsets < data_start).any() or (offsets > last_start).any():
        raise _damaged(path, "an image lies outside the pages of the file")
    table = allocations[np.argsort(allocations["sample_id"], kind="stable")]
    if (
        (table["sample_id"] != np.arange(len(samples), dtype=np.uint64)).any()
        or (table["ptr"] != offsets).any()
        or (table["size"] != image_bytes).any()
    ):
        raise _damaged(path, "its allocation table does not match its images")
    labels, offsets = np.ascontiguousarray(samples["label"], dtype=np.int64), np.ascontiguousarray(offsets)
    return BetonIndex(path=path, samples=len(samples), height=height, width=width, labels=labels, offsets=offsets)
