from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import seeds
from benchmarks.results import Results
from fastcifar.cli import main
from fastcifar.errors import ConfigError


def test_separate_runs_are_compared_with_those_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run_here(arguments: Sequence[str]) -> str:
        commands.append(arguments[2])
        assert main(list(arguments[2:])) == 0
        return ""

    monkeypatch.setattr(seeds, "run_in_subprocess", run_here)
    recipe = "speedrun:widths=[8,8,8],batch_size=50,epochs=0.5,eval_batch_size=40"
    options = {"recipe": recipe, "seeds": 3, "separate": 2, "processes": (1,), "images": 200, "amp": False}
    seeds.main(seeds.Seeds(**options, device="cpu", out=tmp_path / "out.json"))
    assert commands == ["train", "seeds", "train"]
    separate, together = Results.read(tmp_path / "out.json").runs
    assert (separate["runs"], together["runs"]) == (2, 3)
    assert together["losses"][:2] == separate["losses"]
    assert together["accuracies"][:2] == separate["accuracies"]
    assert separate["runs_per_minute"] == pytest.approx(120 / separate["seconds"])
    assert together["runs_per_minute"] > 0


def test_there_are_at_most_as_many_separate_runs_as_seeds() -> None:
    with pytest.raises(ConfigError, match="separate is 5; it must be from 0 to the number of seeds, 4"):
        seeds.Seeds(recipe="quick", seeds=4, separate=5)
    with pytest.raises(ConfigError, match=r"processes is \(0,\); it must be a whole number, at least 1"):
        seeds.Seeds(recipe="quick", processes=(0,))
