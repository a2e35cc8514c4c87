from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import time_to_90
from benchmarks.tables import ROOT
from fastcifar.errors import ConfigError
from tests.benchmarks.helpers import read_checked


def test_recipes_are_trained_in_turn(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shrunk = "speedrun:batch_size=100,epochs=0.5"
    settings = time_to_90.TimeTo90(
        recipes=(shrunk, shrunk + ",tta=none"),
        data_dir=betons,
        device="cpu",
        amp=False,
        seeds=2,
        target_accuracy=0.01,
        out=out,
    )
    time_to_90.main(settings)
    results = read_checked(out)
    assert [(run["name"], run["seed"]) for run in results["runs"]] == [
        (name, seed) for seed in (1000, 1001) for name in settings.recipes
    ]
    for run in results["runs"][::2]:
        assert run["final_accuracy"] == run["tta_accuracy"] == run["history"][-1]["tta_accuracy"]
        assert run["seconds"] == pytest.approx(run["train_seconds"] + run["history"][-1]["tta_seconds"])
        if run["final_accuracy"] >= 0.01:
            assert run["seconds_to_target"] == pytest.approx(run["seconds"])
    for run in results["runs"][1::2]:
        assert run["final_accuracy"] == run["test_accuracy"]
        assert run["seconds"] == pytest.approx(run["train_seconds"] + run["eval_seconds"])

    kept = results["runs"][:3]
    out.write_text(json.dumps({**results, "runs": kept}))
    settings = dataclasses.replace(settings, resume=True, seeds=3)
    time_to_90.main(settings)
    again = json.loads(out.read_text())
    assert again["runs"][:3] == kept
    assert [run["seed"] for run in again["runs"]] == [1000, 1000, 1001, 1001, 1002, 1002]
    assert again["settings"] == {**results["settings"], "seeds": 3}
    assert again["figures"][shrunk]["runs"] == 3
    with pytest.raises(ConfigError, match=r"out\.json: was measured with other settings"):
        time_to_90.main(dataclasses.replace(settings, target_accuracy=0.02))
    out.write_text(json.dumps({**again, "device": "CPU: another"}))
    with pytest.raises(ConfigError, match=r"out\.json: was measured on another device, CPU: another"):
        time_to_90.main(settings)
    with pytest.raises(ConfigError, match=r"none\.json: has no results to continue"):
        time_to_90.main(dataclasses.replace(settings, out=tmp_path / "none.json"))
    out.write_text("[1]")
    with pytest.raises(ConfigError, match=r"out\.json: is not a result file of a benchmark; leave out --resume"):
        time_to_90.main(settings)


def test_the_times_to_90_are_means_over_the_runs() -> None:
    runs = [
        {"test_accuracy": 0.90, "final_accuracy": 0.91, "seconds": 3.0, "seconds_to_target": 2.0, "joules": None},
        {"test_accuracy": 0.88, "final_accuracy": 0.895, "seconds": 5.0, "seconds_to_target": None, "joules": None},
    ]
    figures = time_to_90.summarize_runs(runs, 0.90)
    assert figures["accuracy"]["mean"] == pytest.approx(0.9025)
    assert figures["accuracy_without_tta"]["mean"] == pytest.approx(0.89)
    assert figures["mean_reaches_target"]
    assert figures["fraction_reaching_target"] == 0.5
    assert figures["seconds"]["mean"] == 4.0
    assert figures["seconds_to_target"]["mean"] == 2.0
    assert figures["joules"] is None


def test_a_change_in_a_training_takes_precedence_over_the_benchmarks_settings(betons: Path) -> None:
    def read(name: str, **options: object) -> time_to_90.TrainConfig:
        return time_to_90.read_recipe(name, time_to_90.TimeTo90(recipes=(name,), data_dir=betons, **options))

    assert read("speedrun").runtime.amp
    for value in ("False", "false"):
        assert read(f"speedrun:amp={value}").runtime.amp is False
    config = read("speedrun:resize_sizes=[16, 20],tta=none,device=cpu,val_fraction=0.2", val_fraction=0.1)
    assert config.resize.resize_sizes == (16, 20)
    assert (config.tta.tta, config.runtime.device, config.data.val_fraction) == ("none", "cpu", 0.2)
    for name, message in {
        "speedrun:amp=perhaps": "amp is 'perhaps'",
        "speedrun:amp": "amp is ''",
        "speedrun:small_sizes=[]": "there is no setting 'small_sizes'",
        "speedrun:tta=some": "tta is 'some'; it must be one of",
        "speedrun:epochs=none": "epochs is 'none'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            read(name)


def test_a_training_without_amp_runs_from_the_command_line(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    training = "dilated-cnn:amp=False,batch_size=100,epochs=0.5"
    arguments = [training, "--data-dir", str(betons), "--device", "cpu", "--seeds", "1", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.time_to_90", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_checked(out)["runs"][0]["config"]["amp"] is False
