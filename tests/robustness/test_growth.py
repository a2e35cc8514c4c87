from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import Timing
from benchmarks.results import Results
from tests.robustness import growth


@pytest.mark.slow
def test_images_and_batch_sizes_are_measured_in_new_processes(betons: Path, tmp_path: Path) -> None:
    options = Timing(data_dir=betons, device="cpu", rounds=1, out=tmp_path / "out.json")
    growth.growth(options, images=(600, 1200), least=1000)
    runs = Results.read(options.out).runs
    assert [run["images"] for run in runs] == [600, 1200]
    assert all(run["anonymous_bytes"] > 1e7 for run in runs)
    growth.batches(options, sizes=(20,))
    (batch,) = Results.read(options.out).runs
    assert batch["batch_size"] == 20
    assert batch["images_per_second"] == pytest.approx(20 / batch["seconds"])
    assert batch["peak_bytes"] > 1e7
