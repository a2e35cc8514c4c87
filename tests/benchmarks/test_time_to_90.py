from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import time_to_90
from fastcifar import TrainConfig
from fastcifar.errors import ConfigError, DataError
from fastcifar.training.state import create_state
from tests.benchmarks.test_harness import ROOT


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
    results = json.loads(out.read_text())
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
    with pytest.raises(ConfigError, match=r"out\.json: was measured with other settings"):
        time_to_90.main(dataclasses.replace(settings, target_accuracy=0.02))
    out.write_text(json.dumps({**again, "device": "CPU: another"}))
    with pytest.raises(ConfigError, match=r"out\.json: was measured on another device, CPU: another"):
        time_to_90.main(settings)
    with pytest.raises(DataError, match=r"none\.json: is not a result file of a benchmark"):
        time_to_90.main(dataclasses.replace(settings, out=tmp_path / "none.json"))
    out.write_text("[1]")
    with pytest.raises(DataError, match=r"out\.json: is not a result file of a benchmark"):
        time_to_90.main(settings)


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("speedrun:name=other", "there is no setting 'name'"),
        ("speedrun:=3", "there is no setting ''"),
        ("speedrun:epochs", "epochs is ''; it must be a number"),
        ("speedrun:epochs=-1", "epochs is -1"),
    ],
)
def test_a_change_that_is_not_allowed_is_one_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        time_to_90.read_recipe(name, time_to_90.TimeTo90(recipes=(name,)))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("price_per_hour", -1.0, "0 or more, and finite"),
        ("price_per_hour", float("nan"), "0 or more, and finite"),
        ("price_per_hour", float("inf"), "0 or more, and finite"),
        ("seeds", 0, "a whole number, at least 1"),
        ("target_accuracy", 95.0, "above 0 and at most 1"),
        ("val_fraction", 1.0, "from 0 up to, but not including, 1"),
        ("airbench_epochs", (2.75, 0.0), "positive and finite, for each value"),
        ("hiverge_epochs", (-1.0,), "positive and finite, for each value"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is .*; it must be {allowed}"):
        time_to_90.read_recipe("speedrun", time_to_90.TimeTo90(recipes=("speedrun",), **{name: value}))


def test_a_training_without_amp_runs_from_the_command_line(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    training = "dilated-cnn:amp=False,batch_size=100,epochs=0.5"
    arguments = [training, "--data-dir", str(betons), "--device", "cpu", "--seeds", "1", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.time_to_90", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["runs"][0]["config"]["amp"] is False


@pytest.mark.parametrize("recipe", time_to_90.ABLATIONS)
def test_each_part_of_a_speed_recipe_can_be_left_out(recipe: str) -> None:
    settings = time_to_90.TimeTo90(recipes=(recipe,))
    whole = time_to_90.read_recipe(recipe, settings)
    for part, changes in time_to_90.ABLATIONS[recipe].items():
        assert time_to_90.read_recipe(f"{recipe}:{changes}", settings) != whole, f"{part} is not a part of it"


def test_an_ablation_takes_one_speed_recipe(betons: Path) -> None:
    for recipes in (("era",), ("speedrun", "era-fast")):
        settings = time_to_90.TimeTo90(recipes=recipes, ablate=True, data_dir=betons, device="cpu")
        with pytest.raises(ConfigError, match="--ablate takes one of speedrun, era-fast"):
            time_to_90.sweep(settings)


@pytest.mark.parametrize("recipe", time_to_90.ABLATIONS)
def test_a_recipe_without_a_part_that_saves_work_has_the_same_compute(recipe: str, betons: Path) -> None:
    settings = time_to_90.TimeTo90(recipes=(recipe,), data_dir=betons, device="cpu")
    others = [
        f"{recipe}:{changes}"
        for part, changes in time_to_90.ABLATIONS[recipe].items()
        if part.startswith(("progressive resizing", "frozen first", "narrow groups"))
    ]
    assert len(others) == {"speedrun": 3, "era-fast": 2}[recipe]
    compute = {
        name: time_to_90.era_epoch_equivalents(
            create_state(time_to_90.read_recipe(name, settings).replace(batch_size=2))
        )
        for name in (recipe, *others)
    }
    for name in others:
        assert compute[name] == pytest.approx(compute[recipe], rel=0.02), name


def test_the_compute_of_a_training_is_counted_step_by_step(config: TrainConfig) -> None:
    image = 3 * 379.27e6 / time_to_90.ERA_EPOCH
    whole = time_to_90.era_epoch_equivalents(create_state(config))
    assert whole == pytest.approx(18 * 32 * image, rel=2e-3), "the first convolution passes no gradient on"
    small = config.replace(resize_sizes=(16, 64), resize_fractions=(0.25, 0.25))
    assert time_to_90.era_epoch_equivalents(create_state(small)) == pytest.approx((5 / 4 + 13) * 32 * image, rel=3e-3)
    parts = {"freeze": ("prep", "layer1"), "freeze_at": (0.0, 0.5)}
    prep, first = 64 * 27 * 32**2, 128 * 64 * 9 * 32**2
    block, second = 2 * 128 * 128 * 9 * 16**2, 256 * 128 * 9 * 16**2
    spared_first = 2 * prep + first  # the gradient of prep's weights and inputs, and of the next layer's inputs
    spared_then = 2 * (prep + first + block) + second
    expected = 18 * 3 * 379.27e6 - 9 * (spared_first + spared_then)
    frozen = time_to_90.era_epoch_equivalents(create_state(config.replace(**parts)))
    assert frozen == pytest.approx(32 * expected / time_to_90.ERA_EPOCH, rel=1e-3)
