from __future__ import annotations

import io
import sys

import pytest
from rich.text import Text

from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import can_draw_bars, make_console, replace_unprintable


def _printed(monkeypatch: pytest.MonkeyPatch, *, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """Return what a bold line and a progress display write to a file."""
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding=encoding, errors=errors, write_through=True) as file:
        monkeypatch.setattr(sys, "stdout", file)
        replace_unprintable()
        console = make_console()
        assert not can_draw_bars(console)
        with ProgressDisplay(console) as display:
            display.start("compiling")
            console.print(Text("0.1 → 0.2 猫", style="bold"))
        return buffer.getvalue()


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}])
def test_forced_colour_comes_without_cursor_codes(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _printed(monkeypatch).decode() == "\x1b[1m0.1 → 0.2 猫\x1b[0m\n"


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": ""}, {"FORCE_COLOR": "0"}])
def test_a_file_gets_plain_text(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _printed(monkeypatch).decode() == "0.1 → 0.2 猫\n"


@pytest.mark.parametrize(
    ("encoding", "errors", "expected"),
    [
        ("ascii", "strict", b"0.1 > 0.2 ?\n"),
        ("ascii", "surrogateescape", b"0.1 > 0.2 ?\n"),
        ("latin-1", "backslashreplace", b"0.1 > 0.2 ?\n"),
        ("gbk", "strict", "0.1 → 0.2 猫\n".encode("gbk")),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(
    encoding: str, errors: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert _printed(monkeypatch, encoding=encoding, errors=errors) == expected


def test_a_name_of_bytes_that_are_not_utf_8_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) as file:
        monkeypatch.setattr(sys, "stdout", file)
        replace_unprintable()
        print("caf\udce9")
        assert file.buffer.getvalue() == b"caf?\n"  # type: ignore[attr-defined]
