from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from fastcifar.report import fonts
from fastcifar.report.style import FigureSpec, draw_text, new_sheet

LATIN, CHINESE, KOREAN = "airplane", "猫", "고양이"


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    """Search the fonts in each test anew."""
    fonts._find_fonts.cache_clear()
    yield
    fonts._find_fonts.cache_clear()


def _installed(characters: str) -> bool:
    return not fonts.find_fonts(characters)[1]


def _pixels(text: str) -> np.ndarray:
    def draw() -> Figure:
        figure, axes = new_sheet(height=40)
        draw_text(axes, 100, 10, text)
        return figure

    with Image.open(io.BytesIO(FigureSpec(name="name", title="", alt="", draw=draw).png("light"))) as image:
        return np.asarray(image.convert("L"))


def test_latin_and_greek_names_need_no_other_font() -> None:
    assert fonts.find_fonts(f"{LATIN} αβγ Ж é\t\n\x01") == ((), frozenset())


@pytest.mark.parametrize("names", [(CHINESE, "犬"), (KOREAN, "개나")])
def test_names_are_drawn_with_an_installed_font(names: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    if not _installed("".join(names)):
        pytest.skip("no installed font has these characters")
    with caplog.at_level(logging.WARNING, logger="matplotlib"):
        first, second = map(_pixels, names)
    assert not caplog.records
    assert not np.array_equal(first, second), "boxes look alike"


def test_a_font_that_was_installed_after_matplotlib_listed_the_fonts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    if not _installed(CHINESE):
        pytest.skip("no installed font has these characters")
    old = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", old)
    fonts._find_fonts.cache_clear()
    families, missing = fonts.find_fonts(CHINESE)
    assert len(families) == 1
    assert not missing


def test_without_a_font_there_is_one_note(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(font_manager.findfont(fonts.OWN_FONT))
    monkeypatch.setattr(fonts, "_fonts", lambda: [("DejaVu Sans", str(own))])
    fonts.show_missing_characters([LATIN, "[bold]", CHINESE, f"{CHINESE}犬"])
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("No installed font has 犬猫: ")
    fonts.show_missing_characters([LATIN])
    assert capsys.readouterr().err == ""


def test_a_font_file_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(tmp_path / "broken.ttf")])
    monkeypatch.setattr(fonts, "_regular_fonts", lambda: {"Broken": str(tmp_path / "broken.ttf")})
    assert fonts.find_fonts(CHINESE) == ((), {CHINESE})
