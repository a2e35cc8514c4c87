from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks import soak
from tests.benchmarks.helpers import read_checked


def test_each_round_counts_resources(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    soak.main(soak.Soak(recipes=("dilated-cnn",), minutes=0, train=250, test=100, out=out))
    (run,) = read_checked(out)["runs"]
    assert run["anonymous_bytes"] > 1e7
    assert run["threads"] >= 1
    assert run["open_files"] >= 3


def test_an_open_file_and_a_thread_are_counted(tmp_path: Path) -> None:
    done = threading.Event()
    before = soak.count_resources()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        during = soak.count_resources()
    done.set()
    thread.join()
    assert during["threads"] == before["threads"] + 1
    assert during["open_files"] == before["open_files"] + 1


def test_a_leak_has_a_slope() -> None:
    held = [{"minutes": m, "anonymous_bytes": 100 + m, "threads": 4, "open_files": 9} for m in range(60)]
    slopes = soak.slopes(held, settle=0)
    assert slopes["anonymous_bytes"] == pytest.approx(60 / 129.5)
    assert slopes["threads"] == pytest.approx(0, abs=1e-12)
    assert soak.slopes(held[:10], settle=9) == dict.fromkeys(slopes)
