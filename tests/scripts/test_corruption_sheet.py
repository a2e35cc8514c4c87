from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import corruption_sheet


def test_the_sheet_has_an_image_and_five_severities_of_each_kind(
    tmp_path: Path, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["corruption_sheet", str(betons / "test.beton"), "--out", str(out)])
    corruption_sheet.main()
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    strip, row = 6 * 68 + 12, 64 + 4 + 14
    assert pixels.shape == (5 * row, 3 * strip, 3)
    for top in range(0, 5 * row, row):
        for left in range(0, 3 * strip, strip):
            images = [pixels[top + 14 : top + 78, left + 4 + n * 68 :][:, :64] for n in range(6)]
            assert all(image.std() > 3 for image in images)
            assert all((image != images[0]).any() for image in images[1:])
