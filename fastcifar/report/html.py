"""The parts of a page. Every text is escaped here; the page loads nothing and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from fastcifar.files import atomic_write
from fastcifar.report.style import DARK, LIGHT, FigureSpec

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --back: #f3f4f7; --ink: #1d2129; --soft: #596170; --line: #dde1e8;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1f27; --back: #12151b; --ink: #e4e7ec; --soft: #a3abb9;
  --line: #333a46; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 75ch; overflow-wrap: anywhere; }
.soft, figcaption, footer { color: var(--soft); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.25rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .875rem; }
.cards { columns: 2 420px; column-gap: 16px; }
.cards > * { break-inside: avoid; }
figure, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px 14px 12px;
  margin: 0 0 16px; }
figure img { display: block; width: 100%; max-width: 620px; height: auto; margin: 0 auto; }
figcaption { margin-top: 8px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 500; }
th:first-child { text-align: left; padding-left: 4px; position: sticky; left: 0; background: var(--paper); }
table.words td { text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
table.words th { text-align: left; vertical-align: top; }
tr.marked td, tr.marked th { color: var(--accent); font-weight: 600; }
summary { cursor: pointer; font-weight: 600; }
details[open] summary { margin-bottom: 8px; }
footer { padding-top: 28px; padding-bottom: 28px; }
@media (max-width: 480px) { table { font-size: .8rem; } th, td { padding: 4px 6px; } figure, .card { padding: 10px; } }
@media print { body { background: none; } figure, .card { break-inside: avoid; } }
"""


def write_page(path: Path, title: str, subtitle: str, sections: Iterable[str]) -> None:
    """Put sections of HTML together into one file, which appears whole or not at all."""
    body = "\n".join(sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>
<main>
{body}
</main>
<footer>Made by fastcifar report. Everything here is in this one file.</footer>
</body>
</html>
"""
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def save_figures(pictures: Sequence[FigureSpec], folder: Path) -> list[str]:
    """Draw pictures into PNGs in a folder, and give each as a figure for a page that is light or dark."""
    figures = []
    for picture in pictures:
        light, dark = picture.png(LIGHT), picture.png(DARK)
        with atomic_write(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(light)
        note = f"\n<figcaption>{escape(picture.note)}</figcaption>" if picture.note else ""
        figures.append(
            f"""<figure id="{picture.name}"><h3>{escape(picture.title)}</h3>
<picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">
<img src="{_data_uri(light)}" alt="{escape(picture.alt)}"></picture>{note}</figure>"""
        )
    return figures


def section(title: str, *parts: str, text: str = "") -> str:
    """A heading, a line of text, and parts that are HTML already."""
    words = f'<p class="soft">{escape(text)}</p>\n' if text else ""
    return f"<section><h2>{escape(title)}</h2>\n{words}" + "\n".join(parts) + "</section>"


def cards(*parts: str) -> str:
    """Parts beside each other where there is room, below each other where there is none."""
    return '<div class="cards">\n' + "\n".join(parts) + "\n</div>"


def tiles(values: dict[str, str]) -> str:
    """The few numbers that matter most, by what they are."""
    shown = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
             for name, value in values.items())  # fmt: skip
    return '<div class="tiles">' + "\n".join(shown) + "</div>"


def table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], *, marked: int | None = None, words: bool = False
) -> str:
    """A table whose rows each begin with their name.

    Args:
        heading: of each column; none if all are empty.
        rows: of as many cells.
        marked: the row to point out, from 0.
        words: the cells are text that may be broken, not numbers.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    head = f"<thead><tr>{top}</tr></thead>" if any(heading) else ""
    lines = []
    for number, (name, *cells) in enumerate(rows):
        mark = ' class="marked"' if number == marked else ""
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{values}</tr>')
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>{head}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
    )


def card(*parts: str, title: str = "") -> str:
    """Parts on a card of their own."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{heading}' + "\n".join(parts) + "</div>"


def collapsible(title: str, *parts: str) -> str:
    """A card that opens when it is asked to."""
    return f'<details class="card"><summary>{escape(title)}</summary>' + "\n".join(parts) + "</details>"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
