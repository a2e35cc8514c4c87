"""The tables of any .beton: fields of all of FFCV's types, images of any size, as JPEG or uncompressed."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fastcifar.data.beton_format import ALLOCATION, FIELD, HEADER, IMAGE, RAW, VERSION
from fastcifar.errors import DataError

POINTER = np.dtype([("ptr", "<u8"), ("size", "<u8")])
METADATA = {0: "<f8", 1: "<i8", 2: IMAGE, 3: POINTER, 4: "<u8", 5: POINTER, 6: "<u8"}
"""What a sample's metadata has for a field, by FFCV's id of the field's type: a float, an integer, an RGB image, bytes,
an array, JSON, a tensor."""
TYPE_NAMES = {0: "float", 1: "integer", 2: "RGB image", 3: "bytes", 4: "array", 5: "JSON", 6: "tensor"}
"""The types in words."""
LABEL_TYPE, IMAGE_TYPE = 1, 2
JPEG = 0
"""FFCV's image mode for JPEG."""
USUAL_NAMES = {LABEL_TYPE: ("label", "target"), IMAGE_TYPE: ("image", "img")}
"""The names by which a field is chosen where there are several of its type."""


class Tables(NamedTuple):
    """The tables of a .beton."""

    path: Path
    samples: npt.NDArray[np.void]
    """The metadata of the samples, whose fields are named as those of the file."""
    types: dict[str, int]
    """FFCV's id of the type of each field."""
    allocations: npt.NDArray[np.void]

    def field(self, kind: int, name: str | None = None) -> npt.NDArray[np.void]:
        """Return the metadata of the field of this name, of the only one of a type, or of the one with a usual name.

        Raises:
            DataError: there is none of the type, or more than one.
        """
        names = [each for each, type_id in self.types.items() if type_id == kind and name in (None, each)]
        if len(names) > 1:
            names = [each for each in names if each in USUAL_NAMES[kind]]
        if len(names) != 1:
            raise DataError(f"{self.path}: {self._describe_choice(kind, name)}")
        return np.asarray(self.samples[names[0]])

    def _describe_choice(self, kind: int, name: str | None) -> str:
        listed = ", ".join(f"{each} ({TYPE_NAMES[type_id]})" for each, type_id in self.types.items())
        problem = f"has no field {name!r} that is an {TYPE_NAMES[kind]}"
        if name is None:
            usual = " or ".join(USUAL_NAMES[kind])
            problem = f"must have one {TYPE_NAMES[kind]} field, or one called {usual}"
        several = list(self.types.values()).count(kind) > 1
        advice = f"; choose one with --rewrite and --{USUAL_NAMES[kind][0]}-field" if several or name else ""
        return f"{problem}; its fields are {listed}{advice}"


def damaged(path: Path, what: str) -> DataError:
    """Create the error for a file that cannot be taken over."""
    return DataError(f"{path}: {what}; write it again with FFCV's DatasetWriter")


def read_tables(path: Path) -> Tables:
    """Read the tables of a .beton.

    Raises:
        DataError: the file is missing or damaged, or has a field of a type that is not FFCV's.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(path, file)
            types = _read_types(path, file, int(header["num_fields"]))
            metadata = np.dtype([(name, METADATA[kind]) for name, kind in types.items()], align=True)
            samples = np.fromfile(file, dtype=metadata, count=int(header["num_samples"]))
            file.seek(int(header["alloc_table_ptr"]))
            allocations = np.fromfile(file, dtype=ALLOCATION)
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; name a .beton in it") from None
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, OverflowError, MemoryError, ValueError) as error:
        raise damaged(path, f"cannot be read ({error})") from error
    if not len(samples) or len(samples) != header["num_samples"]:
        raise damaged(path, "the file is truncated")
    return Tables(path, samples, types, allocations)


def _read_header(path: Path, file: BinaryIO) -> np.void:
    header = np.fromfile(file, dtype=HEADER, count=1)
    if not len(header) or header[0]["version"] != VERSION:
        raise damaged(path, f"it is not a .beton of version {VERSION}")
    if not header[0]["alloc_table_ptr"]:
        raise damaged(path, "it is incomplete: it has no allocation table")
    return np.void(header[0])


def _read_types(path: Path, file: BinaryIO, count: int) -> dict[str, int]:
    fields = np.fromfile(file, dtype=FIELD, count=count)
    names = [bytes(name).split(b"\0")[0].decode("ascii", errors="replace") for name in fields["name"]]
    types = dict(zip(names, fields["type_id"].tolist(), strict=True))
    if not types or len(types) != count or not METADATA.keys() >= set(types.values()):
        raise damaged(path, "its fields have equal names, or a type that is not FFCV's")
    return types


def image_sizes(
    path: Path, images: npt.NDArray[np.void], allocations: npt.NDArray[np.void], file_size: int
) -> npt.NDArray[np.int64]:
    """Return the number of bytes of each image in the file, from its allocation table: int64 [N].

    Raises:
        DataError: the table does not fit the images or the file.
    """
    order = np.argsort(allocations["ptr"])
    starts, sizes = allocations["ptr"][order], allocations["size"][order]
    found = np.minimum(np.searchsorted(starts, images["data_ptr"]), max(len(starts) - 1, 0))
    pixels = images["height"].astype(np.uint64) * images["width"] * 3
    if (
        not len(starts)
        or (starts[found] != images["data_ptr"]).any()
        or (sizes[found] > file_size).any()
        or (images["data_ptr"] > file_size - sizes[found]).any()
        or ((images["mode"] == RAW) & (sizes[found] != pixels)).any()
    ):
        raise damaged(path, "its allocation table does not match its images")
    return np.asarray(sizes[found], dtype=np.int64)
