from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loaders
from tests.benchmarks.helpers import read_checked


@pytest.mark.usefixtures("few_images")
def test_loaders_are_compared_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    loaders.main(loaders.Loaders(source="synthetic", device="cpu", batch_size=100, rounds=1, out=out))
    results = read_checked(out)
    assert [run["part"] for run in results["runs"]] == [
        "FFCV", "FFCV, cached on the device", "torchvision DataLoader, 1 worker", "torchvision DataLoader, 2 workers",
    ]  # fmt: skip
    for run in results["runs"]:
        assert 0 < run["first_batch_seconds"]["median"] < run["seconds"]["median"]
        assert run["images_per_second"] == pytest.approx(600 / run["seconds"]["median"])
