"""The parts of one short run of the program. They take longer than a minute on two cores."""

from __future__ import annotations

from typing import Any

import pytest

from tests.robustness.reliability import Reliability, main
from tests.robustness.shapes import check_shape, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results") / "new" / "out.json"
    main(Reliability(mutants=500, loaded=2, hostile=70, kills=6, seed=1, out=out))
    return written(out)


@pytest.fixture
def parts(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The counts of each part's outcomes."""
    return {run["part"]: {key: count for key, count in run.items() if key != "part"} for run in results["runs"]}


def test_the_json_has_the_shape_of_the_committed_one(results: dict[str, Any]) -> None:
    check_shape(results, "reliability")
    assert results["settings"] == {"mutants": 500, "loaded": 2, "hostile": 70, "kills": 6, "seed": 1}


def test_damaged_betons_are_refused_or_harmless(parts: dict[str, dict[str, Any]]) -> None:
    outcomes = parts["mutants through the checker"]
    allowed = {"count", "crashes", "hangs"}
    allowed |= {"without manifest: refused", "without manifest: passed"}
    allowed |= {"with manifest: refused", "with manifest: unchanged"}
    assert outcomes.keys() <= allowed, outcomes
    assert (outcomes["crashes"], outcomes["hangs"]) == (0, 0)
    assert outcomes["without manifest: refused"] + outcomes["without manifest: passed"] == 500
    assert outcomes["with manifest: refused"] > 450
    assert 20 < outcomes["without manifest: passed"] < 400, "both the refused and the passed are many"


def test_damaged_betons_load_without_a_crash(parts: dict[str, dict[str, Any]]) -> None:
    outcomes = parts["mutants through the loader"]
    assert (outcomes["crashes"], outcomes["hangs"]) == (0, 0)
    assert outcomes.get("loaded", 0) + outcomes.get("refused", 0) == outcomes["count"] == 2


def test_hostile_checkpoints_and_archives_do_nothing(parts: dict[str, dict[str, Any]]) -> None:
    outcomes = parts["hostile checkpoints and archives"]
    assert outcomes == {"count": 70, "executed": 0, "outside": 0, "refused": 70}


def test_a_killed_writer_leaves_the_old_file_or_the_new(parts: dict[str, dict[str, Any]]) -> None:
    outcomes = parts["killed while writing .betons"]
    assert outcomes == {"count": 3, "old or new file, whole": 3, "temporary files left": 0}


def test_a_killed_training_is_resumed_or_starts_again(parts: dict[str, dict[str, Any]]) -> None:
    outcomes = parts["killed while training"]
    assert outcomes["ended well afterwards"] == 3
    assert outcomes["reported epochs that were lost"] == 0
    assert outcomes["damaged files"] == 0
