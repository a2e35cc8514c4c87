"""Damage to a file: edits, and Hypothesis strategies that draw them.

Hypothesis shrinks a failing example: a test reports the fewest and smallest edits that still make it fail.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")
NUMBERS = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
"""Values at which sizes and offsets overflow."""


@dataclass(frozen=True)
class Edit:
    """Write `data` at the position `at`, beyond the end of the file if it is shorter; `is_end` ends the file there."""

    at: int
    data: bytes = b""
    is_end: bool = False

    def apply(self, file: BinaryIO) -> None:
        """Edit a file that is open for reading and writing."""
        file.seek(self.at)
        file.write(self.data)
        if self.is_end:
            file.truncate()


Edits = Sequence[Edit]


def edited(content: bytes, edits: Edits) -> bytes:
    """Return an edited copy of `content`."""
    file = io.BytesIO(content)
    for edit in edits:
        edit.apply(file)
    return file.getvalue()


@contextmanager
def edited_in_place(path: Path, content: bytes, edits: Edits) -> Iterator[None]:
    """Edit the file that holds `content` during the block. Faster than a copy of a large file for each mutant."""
    with path.open("r+b") as file:
        for edit in edits:
            edit.apply(file)
    try:
        yield
    finally:
        with path.open("r+b") as file:
            for edit in edits:
                file.seek(edit.at)
                file.write(memoryview(content)[edit.at : None if edit.is_end else edit.at + len(edit.data)])
            file.truncate(len(content))


def mutations(content: bytes, tables: Sequence[range] = (), other: Sequence[st.SearchStrategy[Edit]] = ()) -> Strategy:
    """Draw one to three edits: flipped bits, other bytes and numbers, a truncated or an extended file.

    Args:
        content: the content of the file.
        tables: positions that are edited as often as all positions together, such as those of a header.
        other: strategies for edits that only this kind of file has.
    """
    position = st.one_of([st.integers(span.start, span.stop - 1) for span in (range(len(content)), *tables)])
    size = len(content)
    numbers = st.sampled_from((*NUMBERS, size, size - 1))

    def flip(at: int, bit: int) -> Edit:
        return Edit(at, bytes([content[at] ^ 1 << bit]))

    def set_number(at: int, number: int, width: int) -> Edit:
        return Edit(at, (number % 2 ** (8 * width)).to_bytes(width, "little"))

    edit = st.one_of(
        st.builds(flip, position, st.integers(0, 7)),
        st.builds(Edit, position, st.binary(min_size=1, max_size=16)),
        st.builds(set_number, position, numbers, st.sampled_from((1, 2, 4, 8))),
        st.builds(Edit, st.integers(0, size - 1), st.just(b""), st.just(True)),
        st.builds(Edit, st.just(size), st.binary(min_size=1, max_size=100), st.just(True)),
        *other,
    )
    return st.lists(edit, min_size=1, max_size=3)


Strategy = st.SearchStrategy[list[Edit]]


def draw_examples(strategy: st.SearchStrategy[T], count: int, seed_: int) -> list[T]:
    """Return `count` examples of a strategy. Equal seeds give equal examples, with one version of Hypothesis."""
    examples: list[T] = []

    @seed(seed_)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: T) -> None:
        examples.append(example)

    collect()
    return examples[:count]
