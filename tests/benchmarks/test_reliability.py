from __future__ import annotations

from pathlib import Path

from benchmarks import reliability


def test_damaged_betons_are_refused_or_harmless(tmp_path: Path) -> None:
    beton = reliability.write_test_betons(tmp_path)
    outcomes, passed = reliability.check_mutants(beton, 500, seed=1)
    allowed = {"count", "crashes", "hangs"}
    allowed |= {"without manifest: refused", "without manifest: passed"}
    allowed |= {"with manifest: refused", "with manifest: unchanged"}
    assert outcomes.keys() <= allowed, outcomes
    assert (outcomes["crashes"], outcomes["hangs"]) == (0, 0)
    assert outcomes["without manifest: refused"] + outcomes["without manifest: passed"] == 500
    assert outcomes["with manifest: refused"] > 450
    assert 20 < len(passed) < 400, "both the refused and the passed are many"
    loaded = reliability.load_mutants(beton, passed[:2], seed=1)
    assert (loaded["crashes"], loaded["hangs"]) == (0, 0)


def test_hostile_checkpoints_and_archives_do_nothing(tmp_path: Path) -> None:
    reliability.write_test_betons(tmp_path)
    outcomes = reliability.open_hostile(tmp_path, 70, seed=1)
    assert outcomes == {"count": 70, "executed": 0, "outside": 0, "refused": 70}


def test_a_killed_writer_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    outcomes = reliability.kill_writers(tmp_path / "written", 5, seed=1)
    assert outcomes == {"count": 5, "old or new file, whole": 5, "temporary files left": 0}


def test_a_killed_training_is_resumed_or_starts_again(tmp_path: Path) -> None:
    reliability.write_test_betons(tmp_path)
    outcomes = reliability.kill_trainings(tmp_path, 5, seed=1)
    assert outcomes["ended well afterwards"] == 5
    assert outcomes["reported epochs that were lost"] == 0
    assert outcomes["damaged files"] == 0
