from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ablation, time_to_90, work
from fastcifar import get_recipe
from fastcifar.errors import ConfigError
from fastcifar.training.state import create_state


@pytest.mark.parametrize("recipe", ablation.PARTS)
def test_each_part_of_a_speed_recipe_can_be_left_out(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[time_to_90.TimeTo90] = []
    monkeypatch.setattr(time_to_90, "main", asked.append)
    ablation.main(ablation.Ablation(recipe=recipe, seeds=3, out=tmp_path / "out.json"))
    whole, *others = [time_to_90.read_recipe(name, asked[0]) for name in asked[0].recipes]
    assert whole == get_recipe(recipe, amp=True)
    for config, part in zip(others, ablation.ablations(recipe).values(), strict=True):
        assert config != whole, f"{part} is not a part of it"
    assert asked[0].seeds == 3
    with pytest.raises(ConfigError, match="recipe is 'era'; it must be one of speedrun, era-fast"):
        ablation.main(ablation.Ablation(recipe="era"))


@pytest.mark.parametrize("recipe", ablation.PARTS)
def test_a_recipe_without_a_part_that_saves_work_has_the_same_compute(recipe: str, betons: Path) -> None:
    settings = time_to_90.TimeTo90(recipes=(recipe,), data_dir=betons, device="cpu")
    others = [
        name
        for name, part in ablation.ablations(recipe).items()
        if part.startswith(("progressive resizing", "frozen first", "narrow groups"))
    ]
    assert len(others) == {"speedrun": 3, "era-fast": 2}[recipe]
    compute = {
        name: work.era_epoch_equivalents(create_state(time_to_90.read_recipe(name, settings).replace(batch_size=2)))
        for name in (recipe, *others)
    }
    for name in others:
        assert compute[name] == pytest.approx(compute[recipe], rel=0.02), name
