from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data
from tests.benchmarks.helpers import read_checked


@pytest.mark.usefixtures("few_images")
def test_writing_opening_and_loading_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    data.main(data.Data(source="synthetic", rounds=1, out=out))
    results = read_checked(out)
    assert all(run["seconds"]["median"] > 0 for run in results["runs"])
