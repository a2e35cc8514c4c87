from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data, record, tables, throughput
from benchmarks.common import RESULTS
from fastcifar.cli import main
from fastcifar.errors import CheckpointError

ENVELOPE = {"benchmark", "device", "versions", "commit", "data", "runs"}
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
    assert results["data"]["name"] == "cifar10"
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


def test_a_folder_that_is_no_run_becomes_no_record(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder of a run"):
        record.main(record.Record(runs=(tmp_path,), benchmark="none", out=tmp_path / "out.json"))


def test_throughput_measures_every_part(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = throughput.Throughput(betons=betons, device="cpu", batch_size=8, steps=1, rounds=1, matrix=64, out=out)
    throughput.main(settings)
    results = json.loads(out.read_text())
    _check(results)
    assert [run["part"] for run in results["runs"]] == [
        "loader", "matrix product", "augmentation", "model step", "whole step", "plain model step",
    ]  # fmt: skip
    assert results["figures"]["step_gflop"] == pytest.approx(379.27e6 * 6 * 8 / 1e9, rel=1e-4)


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


def test_the_data_benchmark_measures_writing_opening_and_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastcifar.data import sources

    draw = sources.draw_synthetic
    monkeypatch.setattr(sources, "draw_synthetic", lambda seed: draw(train=600, test=100, seed=seed))
    out = tmp_path / "out.json"
    data.main(data.Data(source="synthetic", rounds=1, out=out))
    results = json.loads(out.read_text())
    _check(results)
    assert all(run["seconds"]["median"] > 0 for run in results["runs"])


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: str(path.relative_to(tables.ROOT)))
def test_the_tables_are_those_of_the_committed_results(path: Path) -> None:
    text = path.read_text()
    assert "<!-- runs -->" in text
    assert tables.filled(text) == text, "python -m benchmarks.tables --write"
