from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.sweep.folder import SweepFolder, read_sweep, write_outcome
from fastcifar.sweep.plan import Trial, compared_on
from fastcifar.sweep.schedule import Schedule
from fastcifar.sweep.space import parse_search
from tests.sweep.examples import make_plan, write_epochs


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Two configurations of two seeds: one finished run, a stopped, a failed and an unfinished one."""
    folder = SweepFolder(tmp_path / "sweep", make_plan(seeds=2))
    with folder.open(is_new=True):
        folder.add({"recipe": "speedrun", "max_lr": 0.1, "batch_size": 20})
        folder.add({"recipe": "speedrun", "max_lr": 0.1, "batch_size": 50})
    write_epochs(folder, Trial(0, 0), [0.5, 0.6, 0.7])
    write_epochs(folder, Trial(0, 1), [0.4])
    write_outcome(folder.run_dir(Trial(0, 1)), "stopped")
    write_outcome(folder.run_dir(Trial(1, 0)), "failed", "the loss is not finite")
    write_epochs(folder, Trial(1, 1), [0.3, 0.2])
    return folder


def test_a_folder_tells_how_its_runs_ended(folder: SweepFolder) -> None:
    results = [folder.result(trial) for trial in folder.trials]
    assert [result.outcome for result in results] == ["finished", "stopped", "failed", "unfinished"]
    assert [result.accuracy for result in results] == [0.7, 0.4, None, 0.2]
    assert results[2].error == "the loss is not finite"


def test_a_sweep_is_read_as_it_was_written(folder: SweepFolder) -> None:
    read = read_sweep(folder.path)
    assert read.plan == folder.plan
    assert read.configurations == folder.configurations


def test_a_folder_has_one_sweep(folder: SweepFolder) -> None:
    new = SweepFolder(folder.path, folder.plan)
    with pytest.raises(CheckpointError, match="already has a sweep; continue it with"), new.open(is_new=True):
        pass
    with (
        folder.open(is_new=False),
        pytest.raises(CheckpointError, match="another process runs a sweep"),
        SweepFolder(folder.path, folder.plan).open(is_new=False),
    ):
        pass


def test_other_files_are_not_mixed_with_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="is not empty"), SweepFolder(tmp_path, make_plan()).open(is_new=True):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("space"), "a value is missing or has another type"),
        (lambda values: values["options"].update(seeds="two"), "damaged, or of another version"),
        (
            lambda values: values["configurations"].append({"recipe": "era"}),
            "a configuration is not one of its recipes",
        ),
        (lambda values: values["space"].update(max_lr="open('x')"), "search expression"),
    ],
)
def test_a_damaged_sweep(folder: SweepFolder, change: object, message: str) -> None:
    values = json.loads((folder.path / "sweep.json").read_text())
    change(values)  # type: ignore[operator]
    (folder.path / "sweep.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        read_sweep(folder.path)


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a folder of `fastcifar sweep`, since it has no sweep\.json"):
        read_sweep(tmp_path)


def test_only_unfinished_runs_and_new_configurations_are_scheduled(folder: SweepFolder) -> None:
    with folder.open(is_new=False):
        schedule = Schedule(folder)
        trials = list(iter(schedule.next, None))
    assert trials[0] == Trial(1, 1)
    assert trials[1:] == [Trial(number, seed) for number in range(2, 6) for seed in (0, 1)]
    config = schedule.config(Trial(5, 1))
    assert (config.optim.max_lr, config.data.batch_size, config.runtime.seed) == (0.4, 50, 1)
    assert config.run_dir == folder.path / "trials" / "0005-seed-1"
    assert len(read_sweep(folder.path).configurations) == 6


def test_early_stopping_sees_the_runs_of_an_earlier_call_again(folder: SweepFolder) -> None:
    again = SweepFolder(folder.path, make_plan(seeds=2, stop="asha"), folder.configurations)
    schedule = Schedule(again)
    assert [schedule.next() for _ in range(3)] == [Trial(0, 0), Trial(0, 1), Trial(1, 1)]


def test_a_search_learns_the_mean_of_the_seeds(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, float | None]] = []
    monkeypatch.setattr("fastcifar.sweep.propose.InOrder.tell", lambda self, *values: told.append(values))
    schedule = Schedule(folder)
    assert told == [(0, pytest.approx(0.55))]
    schedule.end(Trial(1, 1))
    schedule.end(Trial(1, 1))
    assert told[1:] == [(1, 0.2)]


def test_runs_are_compared_on_a_validation_split() -> None:
    plan = make_plan()
    config = next(iter(plan.recipes.values()))
    plain = config.replace(val_fraction=0.0)
    assert compared_on(plain, on_test_set=False).data.val_fraction == 0.1
    assert compared_on(config.replace(val_fraction=0.3), on_test_set=False).data.val_fraction == 0.3
    assert compared_on(plain, on_test_set=True) == plain
    with pytest.raises(ConfigError, match="must be 0 with --on-test-set"):
        compared_on(config, on_test_set=True)
    assert plan.split == "validation split"
    assert make_plan(on_test_set=True).split == "test set"


def test_values_that_do_not_fit_each_other() -> None:
    plan = make_plan(parse_search(["flip_p=choice(0.0, 0.5)", "alternate_flip=choice(True, False)"]))
    with pytest.raises(ConfigError, match=r"flip_p is 0\.5"):
        plan.config({"recipe": "speedrun", "flip_p": 0.5, "alternate_flip": True})
