from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import throughput
from tests.benchmarks.helpers import read_checked


def test_throughput_measures_every_part_at_each_batch_size(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = throughput.Throughput(
        data_dir=betons, device="cpu", batch_sizes=(8, 4), steps=1, rounds=1, matrix=64, out=out
    )
    throughput.main(settings)
    results = read_checked(out)
    parts = ("loader", "matrix product", "augmentation", "model step", "whole step", "plain model step")
    assert [(run["batch_size"], run["part"]) for run in results["runs"]] == [
        (size, part) for size in (8, 4) for part in parts
    ]
    for size in (8, 4):
        figures = results["figures"][str(size)]
        assert figures["step_gflop"] == pytest.approx(379.27e6 * 6 * size / 1e9, rel=1e-4)
        assert figures["images_per_second"]["loader"] > figures["images_per_second"]["whole step"]


def test_ratios_are_computed_from_medians() -> None:
    seconds = {
        "loader": [0.1],
        "matrix product": [1.0],
        "augmentation": [0.2],
        "model step": [1.0, 2.0, 90.0],
        "whole step": [2.2],
        "plain model step": [6.0],
    }
    figures = throughput.summarize_runs(seconds, 512, step_flops=4e9, matrix_flops=4e9)
    assert figures["whole_relative_to_model"] == pytest.approx(1.1)
    assert figures["plain_relative_to_model"] == pytest.approx(3.0)
    assert figures["fraction_of_ceiling"]["model step"] == pytest.approx(0.5)
    assert figures["images_per_second"]["model step"] == pytest.approx(256)
