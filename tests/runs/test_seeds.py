from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastcifar import get_recipe
from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.intervals import mean_interval
from fastcifar.runs.seeds import SeedOptions, SeedRun, SeedsFolder, read_seeds

CONFIG = get_recipe("quick", seed=3)


def result(seed: int, accuracy: float) -> SeedRun:
    shared = {"test_loss": 1.0, "epoch": 2, "train_seconds": 3.0, "eval_seconds": 1.0}
    return SeedRun(seed=seed, folder=f"seed-{seed:04d}", accuracy=accuracy, test_accuracy=accuracy, **shared)


def test_all_runs_are_needed_without_a_precision() -> None:
    options = SeedOptions(runs=3)
    assert not options.enough(None)
    assert not options.enough(mean_interval([0.9, 0.9]))
    assert options.enough(mean_interval([0.9, 0.9, 0.9]))
    assert options.runs_needed(mean_interval([0.9, 0.8])) == 3


def test_a_precise_mean_is_enough_from_five_runs_on() -> None:
    options = SeedOptions(runs=1000, until=0.1)
    assert not options.enough(mean_interval([0.9] * 4))
    assert options.enough(mean_interval([0.9] * 5))
    spread = mean_interval([0.90, 0.91, 0.92, 0.93, 0.94])
    assert not options.enough(spread)
    assert options.runs_needed(spread) == 1000
    assert SeedOptions(runs=1000, until=1).runs_needed(spread) == pytest.approx(
        5 * (100 * spread.half_width) ** 2, abs=1
    )
    assert SeedOptions(runs=1000, until=50).runs_needed(spread) == 5


@pytest.mark.parametrize(
    ("options", "message"), [({"runs": 0}, "runs is 0"), ({"runs": 2, "until": -1}, "until is -1")]
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SeedOptions(**options)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder, options = SeedsFolder(tmp_path / "new", CONFIG, "abc"), SeedOptions(runs=2, until=0.5)
    runs = [result(3, 0.5), result(4, 0.7)]
    with folder.open():
        assert folder.write([], options) is None
        interval = folder.write(runs, options)
    assert interval == mean_interval([0.5, 0.7])
    record = read_seeds(tmp_path / "new")
    assert (record.config, record.options, record.runs) == (CONFIG, options, tuple(runs))
    assert json.loads((tmp_path / "new" / "seeds.json").read_text())["accuracy"]["mean"] == pytest.approx(0.6)


def test_runs_with_other_settings_or_data_are_not_mixed(tmp_path: Path) -> None:
    with SeedsFolder(tmp_path, CONFIG, "abc").open():
        SeedsFolder(tmp_path, CONFIG, "abc").write([], SeedOptions(runs=2))
    other = SeedsFolder(tmp_path, CONFIG.replace(max_lr=0.5), "abc")
    with (
        pytest.raises(CheckpointError, match=r"its runs have .* for --max-lr, not 0\.5; continue them with"),
        other.open(),
    ):
        pass
    with pytest.raises(CheckpointError, match="its runs have other data"), SeedsFolder(tmp_path, CONFIG, "d").open():
        pass
    with SeedsFolder(tmp_path, CONFIG.replace(data_dir="elsewhere", workers=1), "abc").open():
        pass


def test_another_folder_is_not_filled_with_runs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty; choose another --run-dir"):
        SeedsFolder(tmp_path, CONFIG, "abc").open().__enter__()


def test_two_commands_do_not_train_in_one_folder(tmp_path: Path) -> None:
    folder = SeedsFolder(tmp_path, CONFIG, "abc")
    with folder.open(), pytest.raises(CheckpointError, match="another process trains in this folder"), folder.open():
        pass


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{}", '{"config": {}, "content_sha256": "a", "options": 3, "runs": []}', '{"config": 1}'],
)
def test_a_damaged_summary_is_one_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "seeds.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"seeds\.json: "):
        read_seeds(tmp_path)


def test_a_folder_without_a_summary_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a folder of `fastcifar seeds`, since it has no seeds\.json"):
        read_seeds(tmp_path)
