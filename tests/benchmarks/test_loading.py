from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loading
from benchmarks.harness import TrainingTiming
from benchmarks.results import Results


@pytest.fixture
def options(betons: Path, tmp_path: Path) -> TrainingTiming:
    return TrainingTiming(data_dir=betons, device="cpu", rounds=1, out=tmp_path / "out.json")


def test_loaders_are_compared_in_turn(options: TrainingTiming) -> None:
    loading.loaders(options, batch_size=50)
    runs = Results.read(options.out).runs
    assert [run["part"] for run in runs] == [
        "FFCV", "memory map, without FFCV", "FFCV, cached on the device",
        "torchvision DataLoader, 1 worker", "torchvision DataLoader, 2 workers",
    ]  # fmt: skip
    for run in runs:
        assert 0 < run["first_batch_seconds"]["median"] < run["seconds"]["median"]
        assert run["images_per_second"] == pytest.approx(200 / run["seconds"]["median"])


def test_writing_opening_and_loading_are_measured(options: TrainingTiming) -> None:
    loading.data(options)
    runs = Results.read(options.out).runs
    assert len(runs) == 5
    assert all(run["seconds"]["median"] > 0 for run in runs)


def test_a_copy_of_a_beton_has_the_number_of_images_that_was_asked_for(betons: Path, tmp_path: Path) -> None:
    writers = loading.writers(tmp_path, betons, train=450, test=None)
    for write in writers.values():
        write()
    images, labels = loading.decode_all(tmp_path / "train.beton")
    assert len(labels) == 450
    assert (images[:50] == images[200:250]).all()
    assert len(loading.decode_all(tmp_path / "test.beton")[1]) == 90


@pytest.mark.slow
def test_startup_ends_where_the_first_step_begins(options: TrainingTiming) -> None:
    loading.startup(options, recipes=("dilated-cnn",))
    first, train = Results.read(options.out).runs
    assert 0 < first["seconds"]["median"] < train["seconds"]["median"]
    assert train["command"] == "fastcifar train --recipe dilated-cnn"
