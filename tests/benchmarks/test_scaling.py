from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling, scaling_worker
from benchmarks.results import FOLDER, Results
from benchmarks.scaling_predict import ORTHOGONALIZED, SHARED, predict
from benchmarks.scaling_work import run_stages
from fastcifar import get_recipe, parallel
from fastcifar.errors import ConfigError, FastCifarError

RECIPE = "speedrun:widths=[8,8,8],batch_size=48,epochs=2"


class ImitatedGroup(scaling.Group):
    """Processes that need 1 s for each image of a batch and each byte, divided by their number."""

    def __init__(self, count: int, settings: dict[str, Any], cores: object) -> None:
        self.count, self.asked = count, [settings]

    def seconds(self, request: dict[str, Any]) -> float:
        size = next(value for name, value in request["arguments"].items() if name != "alone")
        if request["work"] == "open":
            return 0.0
        return float(size) if request["arguments"].get("alone") else size / self.count

    def __exit__(self, *_: object) -> None:
        pass


def test_parts_are_timed_in_turn_and_predicted(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "Group", ImitatedGroup)
    monkeypatch.setattr(scaling, "AFFINITY", frozenset((0, 1)))
    out = tmp_path / "out.json"
    options: dict[str, Any] = {"rounds": 2, "device": "cpu", "data_dir": betons, "out": out}
    scaling.main(scaling.Scaling(recipes=(RECIPE, "quick"), ranks=(1, 2, 4), **options))
    results = Results.read(out)
    assert results.settings["devices"] == 2
    speedrun, quick = results.grouped("recipe").values()
    assert [
        (run["part"], run["ranks"], run["images"], run["seconds"]["median"]) for run in speedrun if run["images"]
    ] == [
        ("training", 1, 48, 48.0),
        ("training", 2, 24, 24.0),
        ("side by side", 2, 24, 24.0),
        ("alone", 1, 24, 24.0),
        ("training", 4, 12, 12.0),
        ("alone", 1, 12, 12.0),
    ]
    assert [run["part"] for run in speedrun if "ortho" in run["part"]] == [ORTHOGONALIZED, SHARED] * 2
    assert [(run["ranks"], run["bytes"]) for run in quick if run["bytes"]] == [
        (ranks, size) for ranks in (2, 4) for size in scaling.SIZES
    ]
    assert all(len(run["seconds"]["all"]) == 2 for run in results.runs)
    assert [run["predicted"] > run["images"] for run in quick if run["part"] == "training" and run["ranks"] > 1] == [
        True
    ] * 2


def test_one_process_answers_requests(
    betons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = get_recipe("speedrun", widths=(8, 8, 8), batch_size=48, data_dir=betons, device="cpu", epochs=2)
    settings = config.to_json()
    requests = [
        settings,
        {"work": "train", "arguments": {"batch_size": 48, "alone": False}},
        {"work": "open", "arguments": {"settings": settings}},
        {"work": "train", "arguments": {"batch_size": 24, "alone": True}},
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(request) + "\n" for request in requests)))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    scaling_worker.main()
    whole, _, half = (json.loads(line)["seconds"] for line in capsys.readouterr().out.splitlines())
    assert whole > 0
    assert half > 0
    assert parallel.current() is parallel.ALONE


def test_a_process_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'out of luck' >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    cores = os.sched_getaffinity(0)
    with scaling.Group(2, {}, sorted(cores)) as group, pytest.raises(FastCifarError, match="has failed: out of luck"):
        group.seconds({"work": "train"})
    assert os.sched_getaffinity(0) == cores


def test_bad_numbers_of_processes_are_refused(betons: Path) -> None:
    with pytest.raises(ConfigError, match=r"ranks are \[2, 4\]; 1 must be among them"):
        scaling.Scaling(recipes=("era",), ranks=(2, 4))
    options: dict[str, Any] = {"device": "cpu", "data_dir": betons}
    with pytest.raises(ConfigError, match="batch_size is 512; it must be a multiple of 3 ranks"):
        scaling.main(scaling.Scaling(recipes=("era",), ranks=(1, 3), **options))


def test_the_prediction_uses_no_training_of_several_processes() -> None:
    def run(part: str, ranks: int, seconds: float, **fields: int) -> dict[str, Any]:
        return {"part": part, "ranks": ranks, "images": 0, "bytes": 0, "seconds": {"median": seconds}, **fields}

    runs = [
        run("training", 1, 9.0, images=80),  # 1 s, and 0.1 s per image
        run("training", 2, 1e9, images=40),
        run("alone", 1, 5.0, images=40),
        run("all-reduce", 2, 0.12, bytes=1000),  # 0.02 s, and 0.1 s per 1000 bytes
        run("all-reduce", 2, 0.32, bytes=3000),
        run("side by side", 2, 6.0, images=40),
        run(ORTHOGONALIZED, 2, 0.04),
        run(SHARED, 2, 0.03),
        run("training", 4, 1e9, images=20),
        run("alone", 1, 3.0, images=20),
        run("all-reduce", 4, 0.5, bytes=1000),
    ]
    work = {"backward": 0.75, "buckets": [[1000, 0.5], [500, 1.0]], "messages": 0}
    one, two, four = predict(runs, work, devices=2, on_cpu=True)
    assert one == pytest.approx(9.0)
    assert two == pytest.approx(1.2 * 5 + 0.12 + 0.07 - 0.01)
    assert four == pytest.approx(2 * 1.2 * 3 + 0.5 + 0.25), "two on each core"
    _, overlapped, _ = predict(runs, work, devices=2, on_cpu=False)
    assert overlapped == pytest.approx(1.2 * 5 + 0.07), "the first bucket is averaged while others are computed"


def test_the_work_of_a_run_follows_image_sizes_and_frozen_modules() -> None:
    (era,) = run_stages(get_recipe("era"), images=50_000)
    assert era.steps == 24 * 97
    assert era.forward == pytest.approx(2 * 379.27e6, rel=1e-4)
    assert era.backward == pytest.approx(2 * era.forward, rel=0.01), "without the gradient of the images"
    assert sum(bucket.size for bucket in era.buckets) == 4 * 6_573_130
    assert era.buckets[0].ready < 0.2 < era.buckets[-1].ready == 1
    small, _, *_, frozen = run_stages(get_recipe("speedrun"), images=50_000)
    assert small.forward < frozen.forward / 4
    assert frozen.backward < 1.7 * frozen.forward
    assert sum(bucket.size for bucket in small.buckets) == sum(bucket.size for bucket in frozen.buckets)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("scaling-*.json")), ids=lambda path: path.stem)
def test_committed_predictions_are_close_to_what_was_measured(path: Path) -> None:
    results = Results.read(path)
    on_cpu = results.device.startswith("CPU")
    for runs in results.grouped("recipe").values():
        trained = [run for run in runs if run["part"] == "training"]
        predicted = predict(runs, trained[0], devices=results.settings["devices"], on_cpu=on_cpu)
        for run, seconds in zip(trained, predicted, strict=True):
            assert seconds == pytest.approx(run["predicted"])
            if run["ranks"] > 1:
                assert abs(seconds / run["seconds"]["median"] - 1) <= 0.2, (run["recipe"], run["ranks"])
