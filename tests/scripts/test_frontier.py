from __future__ import annotations

import pytest

from benchmarks.results import FOLDER, Results
from fastcifar.report.style import Theme
from scripts.frontier import FILES, OUT, Point, best_so_far, draw_frontier, read_points
from scripts.pictures import variants


def test_the_points_are_the_means_of_the_committed_runs() -> None:
    device, points = read_points(("time-to-90-gpu", "era-gpu"))
    assert device == "NVIDIA H200"
    assert [point.name for point in points] == [
        "speedrun", "era-fast", "airbench, 2.5 epochs", "airbench, 2.75 epochs", "era",
    ]  # fmt: skip
    assert [point.is_peer for point in points] == [False, False, True, True, False]
    assert points[0].seconds == pytest.approx(0.371, abs=5e-4)
    assert points[0].accuracy == pytest.approx(0.9009, abs=5e-5)
    assert points[-1].seconds == pytest.approx(8.153, abs=5e-4)  # three runs, each training and its last evaluation


def test_a_file_that_does_not_exist_is_left_out() -> None:
    assert read_points(("time-to-90-gpu", "no-such-file")) == read_points(("time-to-90-gpu",))


def test_each_panel_has_results() -> None:
    assert all((FOLDER / f"{names[0]}.json").exists() for names in FILES)


def test_the_results_of_a_panel_are_from_one_device() -> None:
    for names in FILES:
        files = [FOLDER / f"{name}.json" for name in names]
        assert len({Results.read(file).device for file in files if file.exists()}) == 1


def test_a_training_that_is_slower_and_less_accurate_than_another_is_not_on_the_line() -> None:
    points = [Point("a", 1, 0.9, False), Point("b", 2, 0.89, False), Point("c", 3, 0.92, False)]
    assert [point.name for point in best_so_far(points)] == ["a", "c"]


@pytest.mark.parametrize(("size", "theme"), variants())
def test_the_pictures_show_the_committed_results(size: str, theme: Theme) -> None:
    """If this fails, run `python -m scripts.frontier` and look at the pictures."""
    assert (OUT / f"frontier-{size}-{theme}.svg").read_text() == draw_frontier(size, theme)
