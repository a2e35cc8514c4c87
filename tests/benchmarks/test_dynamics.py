from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.dynamics import Noise, Overhead, noise, overhead
from benchmarks.results import Results
from fastcifar.runs import dynamics
from tests.helpers import write_pair


def test_noise_ranks_the_images_with_wrong_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(tmp_path / "betons", train=150, test=20)
    options = {"data_dir": tmp_path / "betons", "device": "cpu", "out": tmp_path / "out.json"}
    noise(Noise(recipe="quick", epochs=1, fraction=0.1, **options))
    results = Results.read(tmp_path / "out.json")
    (run,) = results.runs
    assert "AMP" in results.precision, "that of the recipe"
    assert run["wrong_labels"] == 15
    assert run["seed"] == 2000
    assert set(run["found"]) == set(run["auroc"]) == {"mean margin", "mean confidence", "correctness"}
    assert list(run["found"]["mean margin"]) == ["0.05", "0.1", "0.15", "0.2"]
    assert "seed 2000: " in capsys.readouterr().out


def test_overhead_times_training_with_and_without_records(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr("benchmarks.dynamics.write_epoch", lambda *record: written.append(record))
    overhead(Overhead(recipe="dilated-cnn", rounds=1, epochs=1, data_dir=betons, device="cpu", out=tmp_path / "o.json"))
    results = Results.read(tmp_path / "o.json")
    assert [run["part"] for run in results.runs] == ["without records", "with records"]
    assert all(len(run[key]["all"]) == 1 for run in results.runs for key in ("seconds", "processor_seconds"))
    assert len(written) == 2, "one is not counted"
    assert isinstance(written[0][2], dynamics.EpochSamples)
