"""Installed fonts for the characters of class names, such as Chinese ones, that Matplotlib's own font lacks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import suppress

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

from fastcifar.report.terminal import make_console

OWN_FONT = "DejaVu Sans"
"""The font of the figures, which comes with Matplotlib."""
REGULAR = (400, "normal", "regular")
PLACEHOLDERS = "Last Resort"
"""A font of Matplotlib that draws a kind of box for every character."""
PREFERRED = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans")
"""Fonts to take before others that have the same characters."""


def use_installed_fonts(figure: Figure) -> None:
    """Let each text of a figure take the characters that its font lacks from other installed fonts."""
    for text in figure.findobj(Text):
        families, _ = find_fonts(text.get_text())
        if families:
            text.set_fontfamily([OWN_FONT, *families])


def show_missing_characters(names: Iterable[str]) -> None:
    """Print a note on stderr if names that stand in figures have characters that no installed font has."""
    _, missing = find_fonts("".join(names))
    if missing:
        shown = "".join(sorted(missing)[:20])
        note = f"No installed font has {shown}: figures show boxes for these characters; install one, such as Noto Sans"
        make_console(stderr=True).print(note, markup=False, soft_wrap=True)


def find_fonts(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the families of installed fonts for the characters that `OWN_FONT` lacks, and those that all lack."""
    return _find_fonts(frozenset(filter(str.isprintable, text)))


@functools.cache
def _find_fonts(wanted: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    wanted -= _characters(findfont(OWN_FONT))
    families: list[str] = []
    for family, path in _fonts() if wanted else ():
        if found := wanted & _characters(path):
            families.append(family)
            wanted -= found
        if not wanted:
            break
    return tuple(families), wanted


def _fonts() -> Iterator[tuple[str, str]]:
    """Yield family and file of each installed font, those that Matplotlib knows first, which is faster."""
    known = _regular_fonts()
    preferred = {family: known[family] for family in PREFERRED if family in known}
    yield from (preferred | known).items()
    _add_new_fonts()
    yield from (font for font in _regular_fonts().items() if font[0] not in known)


def _regular_fonts() -> dict[str, str]:
    """Return the files of the upright fonts of normal weight by family; for others Matplotlib would log a warning."""
    fonts = (font for font in fontManager.ttflist if font.style == "normal" and font.weight in REGULAR)
    return {font.name: font.fname for font in fonts if not font.name.startswith(PLACEHOLDERS)}


def _add_new_fonts() -> None:
    """Let Matplotlib know the fonts that were installed after it made its list."""
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted({*findSystemFonts()} - known):
        with suppress(Exception):  # Matplotlib cannot read some kinds of fonts, with various errors
            fontManager.addfont(path)


@functools.cache
def _characters(path: str) -> frozenset[str]:
    """Return the characters of a font; none if its file cannot be read."""
    with suppress(OSError, RuntimeError):
        return frozenset(map(chr, get_font(path).get_charmap()))
    return frozenset()
