from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcifar.errors import ConfigError
from fastcifar.inference.predict import LikelyClass, PicturePrediction
from fastcifar.report.prediction_table import check_table, sort_by_number, write_predictions


def _predictions(count: int, *, fails: bool = False) -> Iterator[PicturePrediction]:
    for number in range(1, count + 1):
        likely = (LikelyClass(class_name='a "b", c', probability=2 / 3), LikelyClass(class_name="d", probability=1 / 3))
        yield PicturePrediction(image=f"test/{number}.png", likely=likely)
    if fails:
        raise KeyboardInterrupt


def test_a_submission_has_the_numbers_and_other_tables_the_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert write_predictions(path, _predictions(2), submission=True) == 2
    assert path.read_text() == 'id,label\n1,"a ""b"", c"\n2,"a ""b"", c"\n'
    assert write_predictions(path, _predictions(1), submission=False) == 1
    assert path.read_text() == 'path,label,confidence\ntest/1.png,"a ""b"", c",0.666667\n'


def test_an_interrupted_table_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, _predictions(3, fails=True), submission=True)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_predictions_are_not_kept_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[PicturePrediction] = weakref.WeakSet()

    def watched() -> Iterator[PicturePrediction]:
        for prediction in _predictions(100):
            alive.add(prediction)
            assert len(alive) <= 2  # this one, and the one whose row was written
            yield prediction

    assert write_predictions(tmp_path / "a.csv", watched(), submission=True) == 100


def test_pictures_are_sorted_by_number() -> None:
    pictures = [Path("test", f"{number}.png") for number in (10, 9, 100, 1, 0)]
    assert sort_by_number(pictures) == [Path("test", f"{number}.png") for number in (0, 1, 9, 10, 100)]


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "cat.png"],
        ["1.png", "02.png"],
        ["1.png", "1.jpg"],
        ["1.png", "other/2.png"],
        ["1.png", "\u0662.png"],
        ["1.png", "-"],
        ["1.png", "1.5.png"],
    ],
)
def test_pictures_whose_names_are_no_ids_are_not_sorted(names: list[str]) -> None:
    assert sort_by_number([Path("test", name) for name in names]) is None


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    check_table(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"a\.txt; predictions are written as \.csv"):
        check_table(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"there is no folder .*new: make it first"):
        check_table(tmp_path / "new" / "a.csv")
