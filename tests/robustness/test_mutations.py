from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcifar.data.beton_format import read_index
from fastcifar.data.manifest import open_beton
from fastcifar.errors import DataError
from tests.helpers import write_pair
from tests.robustness.damage import Edit, draw_examples, edited, edited_in_place
from tests.robustness.mutations import beton_mutations, copy_beton

EDITS = [Edit(100, b"", is_end=True), Edit(120, b"ab"), Edit(3, b"cd")]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("betons"), train=60, test=10) / "train.beton"


@pytest.fixture(scope="module")
def copied(beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the .beton, to damage."""
    return copy_beton(beton, tmp_path_factory.mktemp("mutants"))


def test_edits_write_cut_and_extend_a_file() -> None:
    content = bytes(range(200))
    assert edited(content, [Edit(3, b"cd")]) == content[:3] + b"cd" + content[5:]
    assert edited(content, [Edit(100, b"", is_end=True)]) == content[:100]
    assert edited(content, [Edit(200, b"more", is_end=True)]) == content + b"more"
    assert edited(content, EDITS) == content[:3] + b"cd" + content[5:100] + bytes(20) + b"ab"


def test_edits_in_place_are_undone(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(range(200))
    for edits in ([Edit(198, b"long", is_end=True)], [Edit(198, b"long")], EDITS):
        path.write_bytes(content)
        with edited_in_place(path, content, edits):
            assert path.read_bytes() == edited(content, edits)
        assert path.read_bytes() == content


def test_equal_seeds_draw_equal_mutants(beton: Path) -> None:
    strategy = beton_mutations(beton)
    assert draw_examples(strategy, 50, 1) == draw_examples(strategy, 50, 1)
    assert draw_examples(strategy, 50, 1) != draw_examples(strategy, 50, 2)


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_beton_is_refused_or_has_well_formed_images(beton: Path, copied: Path, data: st.DataObject) -> None:
    content = beton.read_bytes()
    edits = data.draw(beton_mutations(beton))
    with edited_in_place(copied, content, edits):
        try:
            index = read_index(copied)
        except DataError:
            pass
        else:
            assert index.images().shape == (index.samples, index.height, index.width, 3)
            assert index.labels.shape == (index.samples,)
        try:
            open_beton(copied)
        except DataError:
            pass
        else:
            assert copied.read_bytes() == content, "the manifest names other bytes"
