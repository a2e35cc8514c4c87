from __future__ import annotations

from pathlib import Path

from benchmarks import startup
from tests.benchmarks.helpers import read_checked


def test_startup_ends_where_the_first_step_begins(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    startup.main(startup.Startup(recipes=("dilated-cnn",), data_dir=betons, device="cpu", rounds=1, out=out))
    results = read_checked(out)
    first, train = results["runs"]
    assert 0 < first["seconds"]["median"] < train["seconds"]["median"]
    assert train["command"] == "fastcifar train --recipe dilated-cnn"
