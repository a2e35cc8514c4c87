"""What Ray calls, without starting Ray; tests/commands/test_sweep.py starts it."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastcifar import get_recipe
from fastcifar.errors import ConfigError, DeviceError, StoppedError
from fastcifar.sweep import engine_ray
from fastcifar.sweep.cluster_ray import check_shares, choose_shares
from fastcifar.sweep.engine_ray import METRIC, TIME, run_trials
from fastcifar.sweep.folder import SweepFolder, TrialResult, read_outcome
from fastcifar.sweep.plan import Resources, Trial
from fastcifar.sweep.schedule import Schedule
from fastcifar.sweep.space import parse_search
from fastcifar.training.signals import GracefulStop
from tests.sweep.examples import make_plan, write_epochs


class Listener:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def started(self, trial: Trial) -> None:
        self.calls.append(("started", trial))

    def epoch(self, trial: Trial, epoch: int, accuracy: float) -> None:
        self.calls.append(("epoch", trial, epoch, accuracy))

    def ended(self, result: TrialResult) -> None:
        self.calls.append(("ended", result.trial, result.outcome, result.error))


@pytest.fixture
def search(tmp_path: Path) -> engine_ray._Search:
    """The search of two configurations, the second of which has settings that do not fit each other."""
    plan = make_plan(parse_search(["flip_p=choice(0.0, 0.5)", "alternate_flip=choice(True, False)"]))
    folder = SweepFolder(tmp_path, plan)
    return engine_ray._Search(folder, Schedule(folder), Listener())


def ray_trial(name: str, **result: Any) -> SimpleNamespace:
    return SimpleNamespace(trial_id=name, last_result=result, error_file=None)


def test_runs_are_suggested_and_wrong_ones_are_listed(search: engine_ray._Search) -> None:
    suggested = [search.suggest(name) for name in "abcd"]
    assert [each["config"]["flip_p"] for each in suggested[:3]] == [0.0, 0.0, 0.5]
    assert suggested[3] == engine_ray.Searcher.FINISHED
    ((kind, trial, outcome, error),) = search.listener.calls  # type: ignore[attr-defined]
    assert (kind, trial, outcome) == ("ended", Trial(2, 0), "failed")
    assert error.startswith("flip_p is 0.5")
    assert isinstance(pickle.loads(pickle.dumps(search)), engine_ray.Searcher), "Tune saves it"


def test_a_run_that_ends_early_was_stopped(search: engine_ray._Search) -> None:
    callback = engine_ray._Callback(search, GracefulStop())
    for name in "ab":
        search.suggest(name)
    callback.on_trial_start(0, [], ray_trial("a"))
    callback.on_trial_result(0, [], ray_trial("a"), {METRIC: 0.5, "epoch": 1, TIME: 33.0})
    write_epochs(search.folder, Trial(0, 0), [0.5])
    callback.on_trial_complete(0, [], ray_trial("a"))
    callback.on_trial_result(0, [], ray_trial("b"), {"error": "the disk is full"})
    callback.on_trial_complete(0, [], ray_trial("b", error="the disk is full"))
    assert search.listener.calls == [  # type: ignore[attr-defined]
        ("started", Trial(0, 0)),
        ("epoch", Trial(0, 0), 1, 0.5),
        ("ended", Trial(0, 0), "stopped", None),
        ("ended", Trial(1, 0), "unfinished", "the disk is full"),
    ]
    assert read_outcome(search.folder.run_dir(Trial(1, 0))) == "unfinished", "--resume tries it again"


def test_a_crash_names_the_error(search: engine_ray._Search, tmp_path: Path) -> None:
    callback = engine_ray._Callback(search, GracefulStop())
    for name in "ab":
        search.suggest(name)
    (tmp_path / "error.txt").write_text("Traceback\n  File\nValueError: no such thing\n\n")
    crashed = ray_trial("a")
    callback.on_trial_error(0, [], crashed)
    crashed = ray_trial("b")
    crashed.error_file = str(tmp_path / "error.txt")
    callback.on_trial_error(0, [], crashed)
    errors = [call[-1] for call in search.listener.calls]  # type: ignore[attr-defined]
    assert errors == [
        "its process ended unexpectedly (perhaps for lack of memory)",
        "its process ended unexpectedly (ValueError: no such thing)",
    ]


def test_a_signal_stops_tune(search: engine_ray._Search) -> None:
    stop = GracefulStop()
    callback = engine_ray._Callback(search, stop)
    callback.on_step_begin(0, [])
    stop.signal = signal.SIGTERM
    with pytest.raises(StoppedError):
        callback.on_step_begin(1, [])


def test_a_cluster_without_machines_ends_the_sweep(search: engine_ray._Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ray, "CHECK_SECONDS", 0.0)
    callback, nodes = engine_ray._Callback(search, GracefulStop()), [{"Alive": True}]
    monkeypatch.setattr(engine_ray.ray, "nodes", lambda: nodes)
    callback.on_step_begin(0, [])
    nodes[0]["Alive"] = False
    with pytest.raises(DeviceError, match=rf"processes have ended.*--resume {search.folder.path}"):
        callback.on_step_begin(1, [])


def make_trainable(betons: Path, run_dir: Path, **changes: Any) -> engine_ray._Trainable:
    small = {"widths": (8, 8, 8), "batch_size": 50, "epochs": 2, "amp": False, "loader": "memmap", "device": "cpu"}
    config = get_recipe("speedrun", data_dir=betons, run_dir=run_dir, **small).replace(**changes)
    trainable = object.__new__(engine_ray._Trainable)  # its __init__ is Ray's
    trainable._begin({"config": config.to_json(), "keep_checkpoints": "none"}, threads=1)
    return trainable


def test_a_trainable_reports_each_epoch(betons: Path, tmp_path: Path) -> None:
    trainable = make_trainable(betons, tmp_path / "first")
    reports = [trainable.step(), trainable.step()]
    assert [(each["epoch"], each[TIME], each["done"]) for each in reports] == [(1, 50.0, False), (2, 100.0, True)]
    assert trainable.step() == {"done": True}
    assert trainable._settings.data.workers == 1
    other = {"config": trainable._settings.replace(run_dir=tmp_path / "second").to_json(), "keep_checkpoints": "none"}
    assert trainable.reset_config(other)
    assert trainable.step()["epoch"] == 1
    trainable.cleanup()
    assert read_outcome(tmp_path / "second") == "unfinished"


def test_a_trainable_reports_its_error(betons: Path, tmp_path: Path) -> None:
    report = make_trainable(betons, tmp_path / "run", batch_size=5000).step()
    assert report["done"]
    assert report["error"].startswith("batch_size is 5000")
    assert read_outcome(tmp_path / "run") == "failed"


def test_a_machine_must_have_the_resources_of_a_trial() -> None:
    machines = [{"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert check_shares({"CPU": 4, "GPU": 0.25}, machines) == {"CPU": 4, "GPU": 0.25}
    with pytest.raises(
        ConfigError, match=r"to have 4 CPUs and 2 GPUs, and no machine .* \(2 CPUs, 0 GPUs; 8 CPUs, 1 G"
    ):
        check_shares({"CPU": 4, "GPU": 2}, machines)


@pytest.mark.parametrize(
    ("device", "given", "expected"), [("auto", None, 1.0), ("cpu", None, 0.0), ("auto", 0.25, 0.25)]
)
def test_each_trial_has_a_gpu_where_there_are_some(
    device: str, given: float | None, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    folder = SweepFolder(tmp_path, plan)
    folder.plan.recipes["speedrun"] = plan.recipes["speedrun"].replace(device=device)  # type: ignore[index]
    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}
    monkeypatch.setattr(engine_ray.ray, "nodes", lambda: [node, {"Alive": False, "Resources": {}}])
    assert choose_shares(Resources(gpus_per_trial=given), folder) == {"CPU": 1.0, "GPU": expected}


@pytest.mark.parametrize("stop", ["none", "asha", "median"])
def test_each_way_to_stop_early_has_a_scheduler(stop: Any) -> None:
    assert isinstance(engine_ray._scheduler(stop), engine_ray.TrialScheduler)


@pytest.mark.parametrize(
    ("address", "message"), [("10.0.0.1:1", "the Ray cluster at 10.0.0.1:1 cannot"), (None, "Ray can")]
)
def test_a_cluster_that_does_not_answer(
    address: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise ConnectionError("no answer\nand many details")

    monkeypatch.setattr(engine_ray.ray, "init", fail)
    with pytest.raises(DeviceError, match=rf"{message}.*\(no answer\)"):
        run_trials(SweepFolder(tmp_path, make_plan()), Resources(address=address), Listener())
