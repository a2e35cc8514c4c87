"""HTML pages from the templates in `templates/`. Jinja2 escapes every value. A page loads no files, runs no scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fastcifar.files import atomic_write
from fastcifar.report.style import FigureSpec
from fastcifar.report.units import format_duration, format_lr, format_percent, format_seconds

_FILES = FileSystemLoader(Path(__file__).parent / "templates")
TEMPLATES = Environment(loader=_FILES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters.update(
    duration=format_duration, learning_rate=format_lr, percent=format_percent, seconds=format_seconds
)


@dataclass(frozen=True, kw_only=True)
class EmbeddedFigure:
    """A figure as two data URIs; the browser shows the one for its colour scheme, light or dark."""

    spec: FigureSpec
    light: str
    dark: str


def embed_figures(specs: Sequence[FigureSpec], folder: Path) -> list[EmbeddedFigure]:
    """Draw figures for a page, and save their light versions as PNG files in `folder`."""
    figures = []
    for spec in specs:
        light, dark = spec.png("light"), spec.png("dark")
        with atomic_write(folder / f"{spec.name}.png") as temporary:
            temporary.write_bytes(light)
        figures.append(EmbeddedFigure(spec=spec, light=_data_uri(light), dark=_data_uri(dark)))
    return figures


def write_page(path: Path, template: str, **values: object) -> None:
    """Fill in a template and write the page to `path` atomically."""
    page = TEMPLATES.get_template(template).render(values)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # a folder's name can be invalid Unicode


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
