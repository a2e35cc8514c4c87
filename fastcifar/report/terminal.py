"""Output to terminals, pipes and files: colour and live bars only where they can be shown, and any encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from fastcifar import clock

if TYPE_CHECKING:
    from rich.console import Console

_ASCII = str.maketrans({"→": ">", "◀": "<", "─": "-", "…": "~", "×": "x", "–": "-", "±": "~", "·": "-", "²": "2"})


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr that moves the cursor only on a terminal; its time is `clock.now`.

    Rich takes a file for a terminal if FORCE_COLOR is set. Here that gives a file colour and nothing else.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(file=stream, highlight=False, get_time=clock.now)
    colored = os.environ.get("FORCE_COLOR", "0") not in ("", "0")
    options: dict[str, Any] = {"force_terminal": False, "color_system": "standard" if colored else None}
    return Console(file=stream, highlight=False, get_time=clock.now, **options)


def can_draw_bars(console: Console) -> bool:
    """Whether a console can move the cursor: a terminal that is neither dumb nor a notebook."""
    return console.is_terminal and console.is_interactive and not console.is_jupyter


def replace_missing_streams() -> None:
    """Discard what is printed to stdout or stderr if it was closed before the start (Python then sets it to None)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open until the end


def replace_unprintable() -> None:
    """Let stdout and stderr print similar characters, or a question mark, for those that their encoding lacks."""
    codecs.register_error("fastcifar", _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding, stream.errors) != ("utf-8", "surrogateescape"):
            stream.reconfigure(errors="fastcifar")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end].translate(_ASCII)
    return "".join(character if character.isascii() else "?" for character in characters), error.end
