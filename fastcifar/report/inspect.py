"""What a .beton holds, for people: a table, and a picture of its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from fastcifar.data.beton import open_beton
from fastcifar.files import replacing

PER_CLASS = 10
"""Pictures in a row of the PNG."""
SCALE = 2
"""Each pixel is drawn as so many by so many."""
GAP = 4
"""Pixels between two pictures."""


def show_beton(path: Path, console: Console, *, verify: bool = True) -> None:
    """Print the manifest and the number of images of each class, after checking the file.

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
    """
    layout, manifest = open_beton(path, verify=verify)
    height, width, channels = manifest.image_shape
    facts = {
        "content": f"{manifest.name}, {manifest.samples:,} images of {height} × {width} × {channels}, uint8",
        "mean": "  ".join(f"{value:.8f}" for value in manifest.mean),
        "std": "  ".join(f"{value:.8f}" for value in manifest.std),
        "file": f"{manifest.file_size:,} bytes, manifest version {manifest.format_version}",
        "file SHA-256": manifest.file_sha256 if verify else f"{manifest.file_sha256} (not checked)",
        "content SHA-256": manifest.content_sha256,
    }
    console.print(str(path), markup=False, soft_wrap=True)
    for name, value in facts.items():
        console.print(f"  {name:<16}{value}", markup=False, soft_wrap=True)
    table = Table("label", "class", "images")
    counts = np.bincount(layout.labels, minlength=len(manifest.class_names))
    for label, (name, count) in enumerate(zip(manifest.class_names, counts.tolist(), strict=True)):
        table.add_row(str(label), name, f"{count:,}")
    console.print(table)


def draw_samples(path: Path, png: Path) -> None:
    """Draw the first pictures of each class, a row a class in the order of the labels, into a PNG.

    Raises:
        DataError: the file or its manifest is missing or damaged.
    """
    layout, manifest = open_beton(path, verify=False)
    images = layout.images()
    height, width = layout.height * SCALE + GAP, layout.width * SCALE + GAP
    sheet = np.full((len(manifest.class_names) * height + GAP, PER_CLASS * width + GAP, 3), 255, dtype=np.uint8)
    for label in range(len(manifest.class_names)):
        for column, index in enumerate(np.flatnonzero(layout.labels == label)[:PER_CLASS]):
            picture = images[index].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            top, left = label * height + GAP, column * width + GAP
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    png.parent.mkdir(parents=True, exist_ok=True)
    with replacing(png) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
