"""Picture files that Pillow reads and does not write, as bytes, and damage to picture files."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture file as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_16_bits(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """Return a PNG of uint16 values [H, W, C], of which one grey value or colour may be transparent."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    transparency = _chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    end = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return SIGNATURE + _chunk(b"IHDR", header) + transparency + end


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(data: bytes, shape: tuple[int, int, int], bits: int, *, order: str = "<", compressed: bool = False) -> bytes:
    """Return a TIFF with the pixels `data` in the byte order `order`, [H, W, C] of `bits` bits per channel."""
    height, width, channels = shape
    data = zlib.compress(data) if compressed else data
    short, long, end = 3, 4, 8 + 2 + 9 * 12 + 4
    tags = [
        (256, short, 1, width), (257, short, 1, height), (258, short, channels, end if channels > 2 else bits),
        (259, short, 1, 8 if compressed else 1), (262, short, 1, 2 if channels > 2 else 1),
        (273, long, 1, end + 2 * channels), (277, short, 1, channels), (278, short, 1, height),
        (279, long, 1, len(data)),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, count, value in tags:
        is_inline = kind == short and count == 1
        fields = struct.pack(f"{order}HH", value, 0) if is_inline else struct.pack(f"{order}I", value)
        head += struct.pack(f"{order}HHI", tag, kind, count) + fields
    return head + struct.pack(f"{order}I{channels}H", 0, *[bits] * channels) + data


def with_metadata() -> dict[str, bytes]:
    """Return small pictures of several kinds with metadata, by name."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    text = PngImagePlugin.PngInfo()
    text.add_text("key", "value" * 10, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "JPEG": encode(noise, "JPEG", exif=exif),
        "PNG": encode(noise, "PNG", exif=exif, pnginfo=text, icc_profile=profile),
        "palette": encode(noise.quantize(8), "PNG", transparency=bytes(range(8))),
        "16 bits": png_16_bits(np.arange(192, dtype=np.uint16).reshape(8, 8, 3) * 300, (1, 2, 3)),
        "TIFF": encode(noise, "TIFF", exif=exif),
        "GIF": encode(noise, "GIF", save_all=True, append_images=[noise.rotate(90)]),
        "WEBP": encode(noise, "WEBP", exif=exif, lossless=True),
        "BMP": encode(noise, "BMP"),
    }


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies of a file: changed bits and numbers, lost bytes, a cut end. Most PNGs get new checksums."""
    numbers = (0, 1, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1)
    generator = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(min(len(mutant), 200) if generator.random() < 0.6 else len(mutant))
            width, order = generator.choice((1, 2, 4)), generator.choice(("little", "big"))
            number = generator.choice(numbers) % 256**width
            kind = generator.random()
            if kind < 0.5:
                mutant[at] ^= 1 << generator.randrange(8)
            elif kind < 0.8:
                mutant[at : at + width] = number.to_bytes(width, order)
            elif kind < 0.9:
                del mutant[at + 1 : at + 1 + width]
            else:
                del mutant[at + 1 :]
        yield _with_checksums(mutant) if generator.random() < 0.7 else bytes(mutant)


def _with_checksums(png: bytearray) -> bytes:
    """Correct the checksums of the chunks, if this is a PNG, so that the damage is not found by them."""
    at = len(SIGNATURE)
    while png.startswith(SIGNATURE) and at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        if end + 4 > len(png):
            break
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(png)
