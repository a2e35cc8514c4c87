from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scaling
from tests.benchmarks.helpers import read_checked


@pytest.mark.usefixtures("few_images")
def test_images_and_batch_sizes_are_measured_in_new_processes(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = scaling.Scaling(
        source="synthetic", device="cpu", images=(600, 1200), batches=(20,), rounds=1, least_images=1000, out=out
    )
    scaling.main(settings)
    results = read_checked(out)
    *images, batch = results["runs"]
    assert [run["images"] for run in images] == [600, 1200]
    assert all(run["anonymous_bytes"] > 1e7 for run in images)
    assert batch["batch_size"] == 20
    assert batch["images_per_second"] == pytest.approx(20 / batch["seconds"])


def test_growth_is_compared_with_a_line() -> None:
    runs = [{"images": n, "seconds": 0.1 + 2e-5 * n, "anonymous_bytes": 100} for n in (1_000, 10_000, 100_000)]
    assert scaling.summarize_runs(runs)["largest_deviation"] == pytest.approx(0, abs=1e-9)
    assert scaling.summarize_runs(runs)["seconds_per_image"] == pytest.approx(2e-5)
    assert scaling.summarize_runs(runs)["memory_growth"] == 0
    runs[-1] = {"images": 100_000, "seconds": 4.2, "anonymous_bytes": 150}
    assert scaling.summarize_runs(runs)["largest_deviation"] > 0.1
    assert scaling.summarize_runs(runs)["memory_growth"] == 0.5
    square = [{"images": n, "seconds": 1e-9 * n**2, "anonymous_bytes": 100} for n in (1_000, 10_000, 100_000)]
    assert scaling.summarize_runs(square)["exponent"] == pytest.approx(2)
