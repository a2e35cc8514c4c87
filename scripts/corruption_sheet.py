"""Draw docs/images/corruptions.png: images with each corruption of `fastcifar evaluate --corrupt`, at each severity.

`python -m scripts.corruption_sheet` takes synthetic images. With a .beton file as argument, it takes its first images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from fastcifar.corruptions.kinds import KINDS, SEVERITIES, corrupt
from fastcifar.data.decode_all import decode_all
from fastcifar.data.images import Images
from fastcifar.data.synthetic import draw_synthetic

SCALE, GAP, LINE = 2, 4, 14
"""The side of the square that a pixel is drawn as, the space around images, and the height of a line of text."""
COLUMNS = 3
"""Kinds beside each other."""


def draw_sheet(images: Images) -> Image.Image:
    """Draw a strip per kind: one of the images without corruption, then with severities 1 to 5."""
    height, width = (side * SCALE + GAP for side in images.shape[1:3])
    strip = (len(SEVERITIES) + 1) * width + 3 * GAP
    rows = -(-len(KINDS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * strip, rows * (height + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, kind in enumerate(KINDS):
        left, top = number % COLUMNS * strip + GAP, number // COLUMNS * (height + LINE)
        draw.text((left, top), kind, fill="black")
        for column, image in enumerate(_severities(images, number % len(images), kind)):
            enlarged = Image.fromarray(image).resize((width - GAP, height - GAP), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * width, top + LINE))
    return sheet


def _severities(images: Images, index: int, kind: str) -> Images:
    """Return an image, then its corrupted versions: uint8 [6, H, W, 3]."""
    image = torch.from_numpy(images[index : index + 1]).permute(0, 3, 1, 2)
    versions = [corrupt(image, kind, severity, indices=torch.tensor([index])) for severity in SEVERITIES]
    return np.ascontiguousarray(torch.cat([image, *versions]).permute(0, 2, 3, 1).numpy())


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beton", type=Path, nargs="?", help="a .beton file whose first images are taken")
    parser.add_argument("--out", type=Path, default=Path("docs/images/corruptions.png"))
    options = parser.parse_args()
    images = decode_all(options.beton)[0] if options.beton else draw_synthetic(train=10, test=1, seed=0)[0][0]
    sheet = draw_sheet(images[:10]).quantize(256, dither=Image.Dither.NONE)  # a third of the size
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
