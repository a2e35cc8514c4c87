from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.robustness.shapes import check_shape, written
from tests.robustness.soak import Soak, count_resources, main, slopes


def test_each_round_counts_resources(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    main(Soak(recipes=("dilated-cnn",), minutes=0, train=250, test=100, out=out))
    results = written(out)
    check_shape(results, "soak")
    (run,) = results["runs"]
    assert run["anonymous_bytes"] > 1e7
    assert run["threads"] >= 1
    assert run["open_files"] >= 3
    assert results["figures"] == {"rounds": 1, "anonymous_bytes": None, "threads": None, "open_files": None}


def test_an_open_file_and_a_thread_are_counted(tmp_path: Path) -> None:
    done = threading.Event()
    before = count_resources()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        during = count_resources()
    done.set()
    thread.join()
    assert during["threads"] == before["threads"] + 1
    assert during["open_files"] == before["open_files"] + 1


def test_a_leak_has_a_slope() -> None:
    held = [{"minutes": m, "anonymous_bytes": 100 + m, "threads": 4, "open_files": 9} for m in range(60)]
    found = slopes(held, settle=0)
    assert found["anonymous_bytes"] == pytest.approx(60 / 129.5)
    assert found["threads"] == pytest.approx(0, abs=1e-12)
    assert slopes(held[:10], settle=9) == dict.fromkeys(found)
