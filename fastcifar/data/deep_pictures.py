"""Scale pictures of more than 8 bits per channel to 8 bits, rounded. Pillow clips grey ones and truncates others."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcifar.errors import DataError

BITS_PER_SAMPLE = 258
"""The number of a TIFF's tag."""
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The other byte order for each of Pillow's: big-endian, little-endian and native."""


def scale_to_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture, opened and not yet loaded, in a mode of 8 bits, with alpha if it has transparent pixels.

    A picture of 8 bits or fewer is returned as it is.

    Raises:
        DataError: the range of its pixels is unknown: they are floats, or integers outside 0 to 65535.
    """
    if picture.mode == "F":
        raise DataError(f"{picture.format} of mode F: its floats have no known range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        values, white = _grey_values(picture)
    elif any(_raw_mode(tile)[:-1] in ("RGB;16", "RGBA;16") for tile in getattr(picture, "tile", ())):
        values, white = _colour_values(picture), 2**16 - 1
    else:
        return picture
    scaled = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    if "transparency" in picture.info:  # one grey value or colour
        opaque = np.atleast_3d(values != picture.info["transparency"]).any(axis=2)
        scaled.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return scaled


def _grey_values(picture: Image.Image) -> tuple[npt.NDArray[np.uint32], int]:
    """Return the pixels of a picture of mode I;16 or I, uint32 [H, W], and the value of white."""
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    white = 2**16 - 1 if picture.mode == "I" else 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    if values.min() < 0 or values.max() > white:
        raise DataError(
            f"{picture.format} of mode {picture.mode}: it has pixels outside 0 to {white}; save it with 8 bits"
        )
    return values.astype(np.uint32), white


def _colour_values(picture: Image.Image) -> npt.NDArray[np.uint32]:
    """Return the pixels of a picture of 16 bits per channel, uint32 [H, W, C].

    Pillow keeps the high byte of each value. Decoded in the other byte order, it keeps the low byte.
    """
    with Image.open(picture.fp, formats=(str(picture.format),)) as other:  # type: ignore[attr-defined]
        other.tile = [_in_other_order(tile) for tile in other.tile]
        low = np.asarray(other)
    values: npt.NDArray[np.uint32] = np.asarray(picture).astype(np.uint32) * 256 + low
    return values


def _raw_mode(tile: Any) -> str:
    """Return the layout of a tile's pixels in the file, such as RGB;16B; other decoders have other first arguments."""
    arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return str(arguments[0]) if arguments else ""


def _in_other_order(tile: Any) -> Any:
    raw = _raw_mode(tile)
    raw = raw[:-1] + OTHER_ORDER[raw[-1]]
    return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
