"""Pictures become the pixels that a viewer shows, and damaged ones are refused."""

from __future__ import annotations

import io
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar.data.pictures import BACKGROUND, decode_picture, decode_pictures, picture_suffixes, readable_path
from fastcifar.errors import DataError
from tests.data.picture_bytes import damaged, encode, png_16_bits, tiff, with_metadata

RAMP = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32, 1)
COLORS = np.concatenate((RAMP, RAMP[::-1], RAMP.transpose(1, 0, 2)), axis=2)
"""uint16 [32, 32, 3]."""
SPLIT = np.where(np.arange(16) < 8, 255, 0).astype(np.uint8) * np.ones((16, 1), dtype=np.uint8)
"""uint8 [16, 16]: white on the left, black on the right."""


def decode(content: bytes) -> np.ndarray:
    return decode_picture(io.BytesIO(content))


def scaled(values: np.ndarray, white: int = 65535) -> np.ndarray:
    """uint8 RGB [H, W, 3] of uint16 values [H, W, 1 or 3]."""
    return np.broadcast_to(np.rint(values * (255 / white)), (*values.shape[:2], 3)).astype(np.uint8)


def test_16_bit_grey_is_scaled_to_256_levels() -> None:
    pixels = decode(png_16_bits(RAMP))
    assert pixels[16, 0].tolist() == [128] * 3
    assert len(np.unique(pixels)) == 256
    np.testing.assert_array_equal(pixels, scaled(RAMP))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_16_bits_are_rounded_in_files_of_any_byte_order(order: str, compressed: bool, tmp_path: Path) -> None:
    for values in (RAMP, COLORS):
        content = tiff(values.astype(f"{order}u2").tobytes(), values.shape, 16, order=order, compressed=compressed)
        (tmp_path / "a.tif").write_bytes(content)
        np.testing.assert_array_equal(decode_picture(tmp_path / "a.tif"), scaled(values))
    np.testing.assert_array_equal(decode(png_16_bits(COLORS)), scaled(COLORS))


def test_16_bits_with_transparency_are_blended_with_the_background() -> None:
    grey, color = (values[20, 3].tolist() for values in (RAMP, COLORS))
    for values, transparent in ((RAMP, grey), (COLORS, color)):
        pixels, expected = decode(png_16_bits(values, tuple(transparent))), scaled(values).copy()
        expected[20, 3] = BACKGROUND
        np.testing.assert_array_equal(pixels, expected)
    half = np.concatenate((COLORS, np.full_like(RAMP, 32768)), axis=2)
    assert np.abs(decode(png_16_bits(half)) - (scaled(COLORS) / 2 + 127.5)).max() <= 1


def test_other_depths_are_scaled() -> None:
    twelve = np.arange(0, 4096, 16)
    bits = (twelve[:, None] >> np.arange(11, -1, -1)) & 1
    pixels = decode(tiff(np.packbits(bits).tobytes(), (16, 16, 1), 12))
    np.testing.assert_array_equal(pixels, scaled(twelve.reshape(16, 16, 1), 4095))
    assert decode(encode(Image.fromarray(RAMP[..., 0]), "PPM"))[16, 0].tolist() == [128] * 3
    assert decode(encode(Image.fromarray(RAMP[..., 0].astype(np.int32)), "TIFF"))[16, 0].tolist() == [128] * 3


@pytest.mark.parametrize(("kind", "name"), [("TIFF", "TIFF of mode F"), ("PPM", "PPM of mode F")])
def test_floats_are_refused_by_format_and_mode(kind: str, name: str) -> None:
    with pytest.raises(DataError, match=name):
        decode(encode(Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), kind))


@pytest.mark.parametrize("values", [[[-1, 5]], [[0, 65536]]])
def test_integers_of_an_unknown_range_are_refused(values: list[list[int]]) -> None:
    with pytest.raises(DataError, match="TIFF of mode I: it has pixels outside 0 to 65535"):
        decode(encode(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF"))


def hidden(mode: str, color: int) -> Image.Image:
    """A picture whose right half is transparent, with `color` below the transparency; the left half is black."""
    right = SPLIT == 0
    grey = Image.fromarray(np.where(right, color, 0).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image = grey.convert(mode)
        image.putalpha(Image.fromarray(SPLIT))
    else:
        image = grey if mode == "L" else grey.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
        value = image.getpixel((15, 0))
        image.info["transparency"] = (color,) * 3 if mode == "RGB" else value
    return image


@pytest.mark.parametrize(
    ("mode", "kind"),
    [*((mode, "PNG") for mode in ("RGBA", "LA", "P", "L", "RGB")),
     ("RGBA", "WEBP"), ("P", "GIF"), ("RGBA", "TIFF"), ("LA", "TIFF")],
)  # fmt: skip
def test_transparent_pixels_become_the_background_whatever_their_hidden_colour(mode: str, kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    for color in (30, 200):
        pixels = decode(encode(hidden(mode, color), kind, **options))
        assert (pixels[:, :8] == 0).all()
        assert (pixels[:, 8:] == BACKGROUND).all()


def test_half_transparent_pixels_are_blended() -> None:
    for alpha, expected in ((255, 0), (128, 127), (0, 255)):
        assert decode(encode(Image.new("RGBA", (4, 4), (0, 0, 0, alpha)), "PNG"))[0, 0].tolist() == [expected] * 3
    palette = Image.new("RGB", (4, 4)).quantize(2)
    assert decode(encode(palette, "PNG", transparency=b"\x80\x00"))[0, 0].tolist() == [127] * 3


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("1", "PNG", {}),
        ("L", "JPEG", {"quality": 100}),
        ("P", "PNG", {}),
        ("P", "GIF", {}),
        ("PA", "TIFF", {}),
        ("CMYK", "JPEG", {"quality": 100}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "JPEG", {"quality": 100}),
        ("YCbCr", "TIFF", {}),
        ("LAB", "TIFF", {}),
        ("RGBX", "TIFF", {}),
    ],
)
def test_pictures_of_any_mode_show_their_colours(mode: str, kind: str, options: dict[str, int]) -> None:
    colors = [(0, 0, 0), (255, 255, 255)] if mode in ("1", "L") else [(230, 40, 20), (60, 90, 200)]
    for color in colors:
        image = Image.new("RGB", (16, 16), color)
        image = image.quantize(4).convert(mode) if mode in ("P", "PA") else image.convert(mode)
        assert np.abs(decode(encode(image, kind, **options)).astype(int) - color).max() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_rotated_as_their_exif_data_says(kind: str) -> None:
    corner = np.zeros((16, 24, 3), dtype=np.uint8)
    corner[:8, :8] = 255  # at the top left
    places = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)]
    for orientation, place in enumerate(places, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = decode(encode(Image.fromarray(corner), kind, exif=exif))
        assert pixels.shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))
        white = {(row, column) for row in (0, -1) for column in (0, -1) if pixels[row, column].min() > 200}
        assert white == {place}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("white", "black")]
    assert decode(encode(frames[0], kind, save_all=True, append_images=frames[1:])).min() == 255


@pytest.mark.filterwarnings("ignore:IM image format is deprecated:DeprecationWarning")
def test_every_format_that_pillow_writes_and_reads_is_read() -> None:
    noise, unread = Image.fromarray(SPLIT).convert("RGB"), set()
    Image.init()
    for kind in Image.SAVE:
        image = noise.convert({"MSP": "1", "XBM": "1", "PALM": "P", "BLP": "P"}.get(kind, "RGB"))
        try:
            content = encode(image, kind)
        except (OSError, KeyError, ValueError):
            continue  # Pillow does not write it
        try:
            assert decode(content)[..., 0].max() == 255
        except DataError:
            unread.add(kind)
    assert unread <= {"EPS", "PALM", "PDF", "SPIDER"}, "Pillow does not read these itself, or only as floats"
    suffixes = {".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"}
    assert suffixes <= picture_suffixes()
    assert not {".eps", ".pdf", ".h5", ".mpg", ".txt"} & picture_suffixes()


def test_no_warning_of_pillow_reaches_the_user_and_large_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    palette = encode(Image.new("RGB", (4, 4)).quantize(2), "PNG", transparency=b"\x80\x00")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        decode(palette)
        decode_pictures([io.BytesIO(palette)] * 4, None, 2)
        assert warnings.filters == filters
    assert not caught
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    for side, refused in ((14, False), (15, True), (100, True)):
        content = encode(Image.new("L", (side, side)), "PNG")
        if not refused:
            decode(content)
            continue
        with pytest.raises(DataError, match="exceeds limit"):
            decode(content)


@pytest.mark.parametrize("kind", with_metadata())
def test_a_damaged_picture_is_refused_or_has_pixels(kind: str) -> None:
    mutants = [io.BytesIO(mutant) for mutant in damaged(with_metadata()[kind], 250, seed=0)]
    start = time.perf_counter()
    decoded = decode_pictures(mutants, (16, 16), 2)
    assert time.perf_counter() - start < 60
    refused = [image for image in decoded if isinstance(image, DataError)]
    assert len(decoded) == 250
    assert 25 < len(refused) < 250
    for error in refused:
        assert str(error).startswith("standard input: ")
        assert "\n" not in str(error)
    for image in decoded:
        assert isinstance(image, DataError) or (image.shape == (16, 16, 3) and image.dtype == np.uint8)


def test_pictures_are_decoded_in_their_order_with_the_errors_of_unreadable_ones(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(20)]
    for number, file in enumerate(files):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
    files[3].write_bytes(files[3].read_bytes()[:40])
    files[5].unlink()
    decoded = decode_pictures(files, None, 3)
    for number, image in enumerate(decoded):
        if number in (3, 5):
            assert isinstance(image, DataError)
            assert str(image).startswith(f"{files[number]}: is not a picture that can be read (")
        else:
            assert not isinstance(image, DataError)
            assert image[0, 0].tolist() == [number, 0, 0]


def test_a_name_that_is_not_utf_8_can_be_printed() -> None:
    assert readable_path(Path("caf\udce9/é.png")) == "caf\\xe9/é.png"
