from __future__ import annotations

import dataclasses
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    ablation,
    augmentation,
    coverage,
    data,
    loaders,
    max_lr,
    record,
    reliability,
    scaling,
    soak,
    startup,
    tables,
    throughput,
    time_to_90,
    work,
)
from benchmarks.common import RESULTS, run_in_subprocess
from fastcifar import TrainConfig, get_recipe
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from fastcifar.cli import main
from fastcifar.errors import CheckpointError, ConfigError, FastCifarError
from fastcifar.training.state import create_state

ENVELOPE = {"benchmark", "device", "versions", "commit", "data", "runs"}
MADE_UP = {"reliability", "faults", "soak", "coverage"}
"""Benchmarks of files and processes, for which any pictures do."""
RUN = {"recipe", "config", "seed", "epochs", "train_seconds", "eval_seconds", "test_accuracy", "history"}


def _check(results: dict[str, Any]) -> None:
    assert results.keys() >= ENVELOPE
    assert results["data"].keys() >= {"name", "content_sha256"}
    assert results["runs"]
    for run in results["runs"]:
        if "recipe" in run:
            assert run.keys() >= RUN
            assert len(run["history"]) == run["epochs"]
            assert run["test_accuracy"] == run["history"][-1]["test_accuracy"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_each_committed_result_says_what_it_rests_on(path: Path) -> None:
    results = json.loads(path.read_text())
    _check(results)
    assert results["data"]["name"] == ("synthetic" if results["benchmark"] in MADE_UP else "cifar10")
    assert results["commit"]
    assert not results["commit"].endswith("-dirty")


def test_a_run_becomes_a_record(betons: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.json"
    train = ["train", "--betons", str(betons), "--batch-size", "100", "--epochs", "2", "--no-report"]
    assert main([*train, "--run-dir", str(run)]) == 0
    record.main(record.Record(runs=(run,), benchmark="short", out=out, note="on made-up pictures"))
    results = json.loads(out.read_text())
    _check(results)
    assert results["runs"][0]["epochs"] == 2
    assert results["note"] == "on made-up pictures"
    assert str(tmp_path) not in out.read_text()


def test_bad_input_to_a_benchmark_is_one_line(tmp_path: Path) -> None:
    missing, out = str(tmp_path), str(tmp_path / "out.json")
    commands = {
        ("throughput", "--betons", missing): r"throughput: .*train\.beton: there is no such file; `fastcifar write",
        ("time_to_90", "speedrum", "--betons", missing): "time_to_90: recipe is 'speedrum'.*did you mean speedrun",
        ("record", missing, "--benchmark", "a", "--out", out): "record: .*is no folder of a run",
    }
    for arguments, message in commands.items():
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, cwd=tables.ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert re.fullmatch(f"{message}.*\n", done.stderr), done.stderr


def test_a_folder_that_is_no_run_becomes_no_record(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder of a run"):
        record.main(record.Record(runs=(tmp_path,), benchmark="none", out=tmp_path / "out.json"))


def test_max_lr_trains_around_the_suggested_rate(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = max_lr.MaxLr(
        recipe="dilated-cnn",
        betons=betons,
        device="cpu",
        epochs=1,
        multiples=(1.0, 3.0),
        seeds=2,
        val_fraction=0.3,
        out=out,
    )
    max_lr.main(settings)
    results = json.loads(out.read_text())
    _check(results)
    suggested = results["suggestion"]["max_lr"]
    assert [(run["seed"], run["multiple"]) for run in results["runs"]] == [(0, 1.0), (0, 3.0), (1, 1.0), (1, 3.0)]
    assert [run["config"]["max_lr"] for run in results["runs"]] == [suggested, 3 * suggested] * 2
    assert {run["history"][0]["eval_split"] for run in results["runs"]} == {"validation"}

    results["runs"] = results["runs"][:3]
    out.write_text(json.dumps(results))
    settings = dataclasses.replace(settings, resume=True)
    max_lr.main(settings)
    again = json.loads(out.read_text())
    assert again["runs"][:3] == results["runs"]
    assert [(run["seed"], run["multiple"]) for run in again["runs"][3:]] == [(1, 3.0)]
    with pytest.raises(ConfigError, match=r"out\.json has other settings"):
        max_lr.main(dataclasses.replace(settings, epochs=2))


def test_the_suggestion_is_held_against_the_best_mean() -> None:
    accuracies = ((1.0, 0.5), (3.0, 0.8), (0.3, 0.1), (1.0, 0.7), (3.0, 0.6), (0.3, 0.2))
    figures = max_lr.derive([{"multiple": m, "test_accuracy": a} for m, a in accuracies])
    assert figures["mean_accuracy"] == pytest.approx({"1": 0.6, "3": 0.7, "0.3": 0.15})
    assert figures["below_best"] == pytest.approx(0.1)


def test_time_to_90_trains_recipes_in_turn(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shrunk = "speedrun:batch_size=100,epochs=0.5"
    settings = time_to_90.TimeTo90(
        recipes=(shrunk, shrunk + ",tta=none"), betons=betons, device="cpu", amp=False, seeds=2, target=0.01, out=out
    )
    time_to_90.main(settings)
    results = json.loads(out.read_text())
    _check(results)
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
    with pytest.raises(ConfigError, match=r"out\.json has other settings"):
        time_to_90.main(dataclasses.replace(settings, target=0.02))
    out.write_text(json.dumps({**again, "device": "CPU: another"}))
    with pytest.raises(ConfigError, match=r"out\.json was load_for_resume on CPU: another"):
        time_to_90.main(settings)
    with pytest.raises(ConfigError, match=r"none\.json: has no results to go on with"):
        time_to_90.main(dataclasses.replace(settings, out=tmp_path / "none.json"))
    out.write_text("[1]")
    with pytest.raises(ConfigError, match=r"out\.json: is no benchmark's results; leave --resume out"):
        time_to_90.main(settings)


def test_what_a_training_computes_is_counted_in_epochs_of_era(config: TrainConfig) -> None:
    image = 3 * 379.27e6 / work.ERA_EPOCH
    whole = work.epochs_worth(create_state(config))
    assert whole == pytest.approx(18 * 32 * image, rel=2e-3), "the first convolution passes no gradient on"
    small = dataclasses.replace(config, resize_sizes=(16, 64), resize_fractions=(0.25, 0.25))
    assert work.epochs_worth(create_state(small)) == pytest.approx((5 / 4 + 13) * 32 * image, rel=3e-3)
    parts = {"freeze": ("prep", "layer1"), "freeze_at": (0.0, 0.5)}
    prep, first = 64 * 27 * 32**2, 128 * 64 * 9 * 32**2
    block, second = 2 * 128 * 128 * 9 * 16**2, 256 * 128 * 9 * 16**2
    spared_first = 2 * prep + first  # the gradient of prep's weights and inputs, and of the inputs of what follows it
    spared_then = 2 * (prep + first + block) + second
    expected = 18 * 3 * 379.27e6 - 9 * (spared_first + spared_then)
    frozen = work.epochs_worth(create_state(dataclasses.replace(config, **parts)))
    assert frozen == pytest.approx(32 * expected / work.ERA_EPOCH, rel=1e-3)


@pytest.mark.parametrize("recipe", ablation.PARTS)
def test_every_part_of_a_speed_recipe_can_be_taken_away(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[time_to_90.TimeTo90] = []
    monkeypatch.setattr(time_to_90, "main", asked.append)
    ablation.main(ablation.Ablation(recipe=recipe, seeds=3, out=tmp_path / "out.json"))
    whole, *others = [time_to_90.read_recipe(name, asked[0]) for name in asked[0].recipes]
    assert whole == get_recipe(recipe, amp=True)
    for config, part in zip(others, ablation.without(recipe).values(), strict=True):
        assert config != whole, f"{part} is no part of it"
    assert asked[0].seeds == 3
    with pytest.raises(ConfigError, match="recipe is 'era'; it must be one of speedrun, era-fast"):
        ablation.main(ablation.Ablation(recipe="era"))


@pytest.mark.parametrize("recipe", ablation.PARTS)
def test_the_recipe_without_what_spares_work_computes_as_much(recipe: str, betons: Path) -> None:
    settings = time_to_90.TimeTo90(recipes=(recipe,), betons=betons, device="cpu")
    others = [
        name
        for name, part in ablation.without(recipe).items()
        if part.startswith(("small images", "the frozen", "narrow groups"))
    ]
    assert len(others) == {"speedrun": 3, "era-fast": 2}[recipe]
    worth = {
        name: work.epochs_worth(create_state(dataclasses.replace(time_to_90.read_recipe(name, settings), batch_size=2)))
        for name in (recipe, *others)
    }
    for name in others:
        assert worth[name] == pytest.approx(worth[recipe], rel=0.02), name


def test_the_ablation_table_pairs_runs_by_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(name: str, seed: int, accuracy: float, seconds: float) -> dict[str, Any]:
        timed = {"train_seconds": seconds - 2, "eval_seconds": 1, "seconds": seconds}
        accuracies = {"final_accuracy": accuracy, "tta_accuracy": accuracy, "test_accuracy": accuracy - 0.01}
        return {"name": name, "seed": seed, **accuracies, **timed}

    runs = [run("speedrun", 1, 0.90, 10), run("speedrun", 2, 0.92, 10)]
    runs += [run("speedrun:whiten=false", 2, 0.90, 5), run("speedrun:whiten=false", 1, 0.86, 5)]
    runs += [run("speedrun:dirac=false", 1, 0.89, 20), run("speedrun:dirac=false", 7, 0.10, 20)]
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.ablation_table("made-up", "speedrun") == "Not measured yet."
    (tmp_path / "made-up.json").write_text(json.dumps({"device": "CPU: made-up", "runs": runs}))
    rows = tables.ablation_table("made-up", "speedrun").splitlines()[4:]
    assert rows == [
        "| – | 2 | 91.00% | – | 1 × |",
        "| test-time augmentation | 2 | 90.00% | -1.00 ± 0.00 | 0.90 × |",
        "| whitening of the first layer | 2 | 88.00% | -3.00 ± 1.00 | 0.50 × |",
        "| the convolutions' start as identities | 1 | 89.00% | -1.00 ± ? | 2.00 × |",
    ]


def test_the_times_to_90_are_means_over_the_runs() -> None:
    runs = [
        {"test_accuracy": 0.90, "final_accuracy": 0.91, "seconds": 3.0, "seconds_to_target": 2.0, "joules": None},
        {"test_accuracy": 0.88, "final_accuracy": 0.895, "seconds": 5.0, "seconds_to_target": None, "joules": None},
    ]
    figures = time_to_90.derive(runs, 0.90)
    assert figures["accuracy"]["mean"] == pytest.approx(0.9025)
    assert figures["accuracy_without_tta"]["mean"] == pytest.approx(0.89)
    assert figures["mean_reaches_target"]
    assert figures["share_reaching_target"] == 0.5
    assert figures["seconds"]["mean"] == 4.0
    assert figures["seconds_to_target"]["mean"] == 2.0
    assert figures["joules"] is None


def test_throughput_measures_every_part_at_each_batch_size(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = throughput.Throughput(
        betons=betons, device="cpu", batch_sizes=(8, 4), steps=1, rounds=1, matrix=64, out=out
    )
    throughput.main(settings)
    results = json.loads(out.read_text())
    _check(results)
    parts = ("loader", "matrix product", "augmentation", "model step", "whole step", "plain model step")
    assert [(run["batch_size"], run["part"]) for run in results["runs"]] == [
        (size, part) for size in (8, 4) for part in parts
    ]
    for size in (8, 4):
        figures = results["figures"][str(size)]
        assert figures["step_gflop"] == pytest.approx(379.27e6 * 6 * size / 1e9, rel=1e-4)
        assert figures["images_per_second"]["loader"] > figures["images_per_second"]["whole step"]


def test_figures_are_derived_from_medians() -> None:
    seconds = {
        "loader": [0.1],
        "matrix product": [1.0],
        "augmentation": [0.2],
        "model step": [1.0, 2.0, 90.0],
        "whole step": [2.2],
        "plain model step": [6.0],
    }
    figures = throughput.derive(seconds, 512, step_flops=4e9, matrix_flops=4e9)
    assert figures["whole_by_model"] == pytest.approx(1.1)
    assert figures["plain_by_model"] == pytest.approx(3.0)
    assert figures["share_of_ceiling"]["model step"] == pytest.approx(0.5)
    assert figures["images_per_second"]["model step"] == pytest.approx(256)


def test_a_process_of_its_own_that_fails_is_one_error_with_its_reason() -> None:
    assert run_in_subprocess(["-c", "print(3)"]) == "3\n"
    with pytest.raises(FastCifarError, match=r"code 4: no such recipe$"):
        run_in_subprocess(["-c", "import sys; print('first\\nno such recipe', file=sys.stderr); sys.exit(4)"])
    with pytest.raises(FastCifarError, match=r"code 5: nothing on stderr$"):
        run_in_subprocess(["-c", "import sys; sys.exit(5)"])


def test_startup_ends_where_the_first_step_begins(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    startup.main(startup.Startup(recipes=("dilated-cnn",), betons=betons, device="cpu", rounds=1, out=out))
    results = json.loads(out.read_text())
    _check(results)
    first, train = results["runs"]
    assert 0 < first["seconds"]["median"] < train["seconds"]["median"]
    assert train["command"] == "fastcifar train --recipe dilated-cnn"


def test_ways_of_augmenting_are_timed_in_turn(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = augmentation.AugmentationTimes(betons=betons, device="cpu", batch_size=8, rounds=2, out=out)
    augmentation.main(settings)
    results = json.loads(out.read_text())
    _check(results)
    parts = {run["part"]: run for run in results["runs"]}
    assert list(parts) == [augmentation.OURS, *augmentation.other_ways(), augmentation.STEP]
    ours, step = (parts[name]["seconds"]["median"] for name in (augmentation.OURS, augmentation.STEP))
    assert results["figures"]["share_of_step"] == pytest.approx(ours / step)
    for name, ratio in results["figures"]["by_ours"].items():
        assert ratio == pytest.approx(parts[name]["seconds"]["median"] / ours)


@pytest.mark.parametrize("name", augmentation.other_ways())
def test_other_ways_of_augmenting_crop_flip_normalise_and_cut_out(name: str) -> None:
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    images[..., 16:] = 200
    augmented = augmentation.other_ways()[name](images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    white, grey = ((pixel / 255 - CIFAR10_MEAN[0]) / CIFAR10_STD[0] for pixel in (255, 200))
    red = augmented[:, 0]
    allowed = torch.tensor([white, grey, -CIFAR10_MEAN[0] / CIFAR10_STD[0], 0.0])
    assert ((red[..., None] - allowed).abs().amin(-1) < 1e-4).all()
    assert ((red == 0).sum((1, 2)) == 64).all(), "one square of 8 x 8 in each image"
    left_is_white = (red[:, :, 12] - white).abs().amin(1) < 1e-4
    mirrored = 1 - left_is_white.float().mean()
    assert mirrored in (0, 1) if "one draw" in name else 0.3 < mirrored < 0.7


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic source has 600 images to train on."""
    from fastcifar.data import sources

    draw = sources.draw_synthetic
    monkeypatch.setattr(sources, "draw_synthetic", lambda seed: draw(train=600, test=100, seed=seed))


@pytest.mark.usefixtures("few_images")
def test_loaders_are_compared_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    loaders.main(loaders.Loaders(source="synthetic", device="cpu", batch_size=100, rounds=1, out=out))
    results = json.loads(out.read_text())
    _check(results)
    assert [run["part"] for run in results["runs"]] == [
        "FFCV", "FFCV, cache_on_device", "torchvision DataLoader, 1 worker", "torchvision DataLoader, 2 workers",
    ]  # fmt: skip
    for run in results["runs"]:
        assert 0 < run["first_batch_seconds"]["median"] < run["seconds"]["median"]
        assert run["images_per_second"] == pytest.approx(600 / run["seconds"]["median"])


@pytest.mark.usefixtures("few_images")
def test_scaling_measures_images_and_batches_in_processes_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = scaling.Scaling(
        source="synthetic", device="cpu", images=(600, 1200), batches=(20,), rounds=1, least_images=1000, out=out
    )
    scaling.main(settings)
    results = json.loads(out.read_text())
    _check(results)
    *images, batch = results["runs"]
    assert [run["images"] for run in images] == [600, 1200]
    assert all(run["anonymous_bytes"] > 1e7 for run in images)
    assert batch["batch_size"] == 20
    assert batch["images_per_second"] == pytest.approx(20 / batch["seconds"])


def test_damaged_betons_are_refused_or_harmless(tmp_path: Path) -> None:
    beton = reliability.write_test_betons(tmp_path)
    outcomes, passed = reliability.check_mutants(beton, 500, seed=1)
    allowed = {"count", "crashes", "hangs"}
    allowed |= {"without manifest: refused", "without manifest: passed"}
    allowed |= {"with manifest: refused", "with manifest: unchanged"}
    assert outcomes.keys() <= allowed, outcomes
    assert (outcomes["crashes"], outcomes["hangs"]) == (0, 0)
    assert outcomes["without manifest: refused"] + outcomes["without manifest: passed"] == 500
    assert outcomes["with manifest: refused"] > 450
    assert 20 < len(passed) < 400, "both the refused and the passed are many"
    loaded = reliability.load_mutants(beton, passed[:2], seed=1)
    assert (loaded["crashes"], loaded["hangs"]) == (0, 0)


def test_hostile_checkpoints_and_archives_do_nothing(tmp_path: Path) -> None:
    reliability.write_test_betons(tmp_path)
    outcomes = reliability.open_hostile(tmp_path, 70, seed=1)
    assert outcomes == {"count": 70, "executed": 0, "outside": 0, "refused": 70}


def test_what_is_killed_as_it_writes_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    outcomes = reliability.kill_writers(tmp_path / "written", 5, seed=1)
    assert outcomes == {"count": 5, "old or new file, whole": 5, "temporary files left": 0}


def test_what_is_killed_as_it_trains_goes_on_or_starts_again(tmp_path: Path) -> None:
    reliability.write_test_betons(tmp_path)
    outcomes = reliability.kill_trainings(tmp_path, 5, seed=1)
    assert outcomes["ended well after it"] == 5
    assert outcomes["lost epochs that had been run_reporting_errors"] == 0
    assert outcomes["damaged files"] == 0


@pytest.mark.slow
def test_a_fault_in_a_write_leaves_the_old_files_or_the_new_ones(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--every", "17", "--out", str(out)]
    done = subprocess.run(command, cwd=tables.ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    _check(results)
    assert len(results["runs"]) == 6
    for run in results["runs"]:
        assert run["faults"] >= 1
        assert run.keys() <= {"part", "faults", "an error", "went on", "killed", "old", "new"}, run
        assert run.get("old", 0) + run.get("new", 0) == run["faults"]
        assert run.get("killed", 0) == (run["faults"] if run["part"].endswith("kills") else 0)


def test_a_soak_counts_what_is_held(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    soak.main(soak.Soak(recipes=("dilated-cnn",), minutes=0, train=500, test=100, out=out))
    results = json.loads(out.read_text())
    _check(results)
    (run,) = results["runs"]
    assert run["anonymous_bytes"] > 1e7
    assert run["threads"] >= 1
    assert run["open_files"] >= 3


def test_a_leak_has_a_slope() -> None:
    held = [{"minutes": m, "anonymous_bytes": 100 + m, "threads": 4, "open_files": 9} for m in range(60)]
    slopes = soak.slopes(held, settle=0)
    assert slopes["anonymous_bytes"] == pytest.approx(60 / 129.5)
    assert slopes["threads"] == pytest.approx(0, abs=1e-12)
    assert soak.slopes(held[:10], settle=9) == dict.fromkeys(slopes)


def test_coverage_counts_lines_and_branches_and_what_only_a_gpu_reaches(tmp_path: Path) -> None:
    counts = {"num_statements": 8, "covered_lines": 7, "num_branches": 2, "covered_branches": 1, "missing_lines": 1}
    assert coverage.derive(counts)["share"] == 0.8
    code = f"def f():  {coverage.MARK}\n    if x:\n        return 1\n    return 2\n\n\ndef g():\n    return 3\n"
    (tmp_path / "a.py").write_text(code)
    assert coverage.count_gpu_statements(tmp_path) == 4

    report, out = tmp_path / "report.json", tmp_path / "out.json"
    report.write_text(json.dumps({"totals": counts, "files": {"a.py": {"summary": counts, "missing_lines": [3]}}}))
    coverage.main(coverage.Coverage(report=report, out=out))
    results = json.loads(out.read_text())
    _check(results)
    assert results["figures"]["share"] == results["runs"][0]["share"] == 0.8
    assert results["figures"]["gpu_statements"] > 10


def test_growth_is_held_against_a_line() -> None:
    runs = [{"images": n, "seconds": 0.1 + 2e-5 * n, "anonymous_bytes": 100} for n in (1_000, 10_000, 100_000)]
    assert scaling.derive(runs)["largest_deviation"] == pytest.approx(0, abs=1e-9)
    assert scaling.derive(runs)["seconds_per_image"] == pytest.approx(2e-5)
    assert scaling.derive(runs)["memory_growth"] == 0
    runs[-1] = {"images": 100_000, "seconds": 4.2, "anonymous_bytes": 150}
    assert scaling.derive(runs)["largest_deviation"] > 0.1
    assert scaling.derive(runs)["memory_growth"] == 0.5
    square = [{"images": n, "seconds": 1e-9 * n**2, "anonymous_bytes": 100} for n in (1_000, 10_000, 100_000)]
    assert scaling.derive(square)["exponent"] == pytest.approx(2)


@pytest.mark.usefixtures("few_images")
def test_the_data_benchmark_measures_writing_opening_and_loading(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    data.main(data.Data(source="synthetic", rounds=1, out=out))
    results = json.loads(out.read_text())
    _check(results)
    assert all(run["seconds"]["median"] > 0 for run in results["runs"])


def test_the_headline_pairs_a_recipe_with_the_fastest_peer_that_reaches_the_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = {
        "speedrun": {1: 10.0, 2: 20.0, 3: 30.0},
        "era-fast": {1: 5.0},
        "peer, 1 epoch": {1: 1.0},
        "peer, 2 epochs": {1: 40.0, 2: 40.0, 9: 1.0, 10: 60.0},
        "peer, 3 epochs": {1: 90.0},
        "peer, from another seed": {7: 2.0},
    }
    figures = {
        name: {
            "runs": len(times),
            "accuracy": {"mean": 0.9012},
            "mean_reaches_target": name != "peer, 1 epoch",
            "seconds": {"median": statistics.median(times.values())},
        }
        for name, times in runs.items()
    }
    peers = {name: {} for name in runs if name.startswith("peer")}
    each = [{"name": name, "seed": s, "seconds": t} for name, times in runs.items() for s, t in times.items()]
    results = {"device": "CPU: made-up", "figures": figures, "peers": peers, "runs": each}
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "made-up.json").write_text(json.dumps(results))
    (tmp_path / "alone.json").write_text(json.dumps({**results, "peers": {}}))
    assert tables.headline_table("made-up", "missing", "alone").splitlines()[2:] == [
        "| CPU: made-up | 3 | 90.12% | 20 | 0.38 × peer, 2 epochs |",
        "| CPU: made-up | 3 | 90.12% | 20 | – |",
    ]


def test_the_pace_table_counts_images_and_multiply_adds_of_whole_trainings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(seconds: float) -> dict[str, Any]:
        history = [
            {"images_per_second": 50_000 / (0.8 * seconds), "train_seconds": 0.8 * seconds},
            {"images_per_second": 10_000 / (0.2 * seconds), "train_seconds": 0.2 * seconds},
        ]
        return {"name": "era", "epochs_worth": 1.2, "train_seconds": seconds, "history": history}

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.throughput_table("made-up") == "Not measured yet."
    runs = [run(100), run(400), run(200)]
    (tmp_path / "made-up.json").write_text(json.dumps({"device": "CPU: made-up", "figures": {"era": {}}, "runs": runs}))
    assert tables.throughput_table("made-up").splitlines()[-1] == "| `era` | 3 | 300 | 683 |"


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: str(path.relative_to(tables.ROOT)))
def test_the_tables_are_those_of_the_committed_results(path: Path) -> None:
    text = path.read_text()
    assert "<!-- runs -->" in text
    assert tables.filled(text) == text, "python -m benchmarks.tables --write"
