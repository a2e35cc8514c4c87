from __future__ import annotations

import pytest

from fastcifar import get_recipe
from fastcifar.errors import ConfigError
from fastcifar.recipes import RECIPES, describe_recipe


def test_era_is_the_24_epochs_of_the_exercise() -> None:
    config = get_recipe("era")
    assert (config.epochs, config.data.batch_size) == (24, 512)
    assert config.optim.pct_start == pytest.approx(5 / 24)
    assert (config.optim.div_factor, config.optim.final_div_factor) == (1000, 1), (
        "the learning rate falls back to LRMIN and not below"
    )
    augment = config.augment
    assert (augment.padding, augment.padding_mode, augment.flip_p, augment.cutout) == (4, "constant", 0.5, 8)
    assert not config.runtime.amp
    assert not config.runtime.compile


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_has_its_name_and_a_docstring_with_its_command(name: str) -> None:
    config = get_recipe(name)
    assert (config.name, config.base_recipe) == (name, name)
    assert f"fastcifar train --recipe {name}" in (RECIPES[name].__doc__ or "")


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_line_of_each_docstring_describes_the_recipe_in_a_short_line(name: str) -> None:
    lines = (RECIPES[name].__doc__ or "").splitlines()
    assert lines[0].endswith(".")
    assert lines[1] == "", "the first line is a sentence of its own"
    assert 20 <= len(describe_recipe(name)) <= 60
    assert "`" not in describe_recipe(name)


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean quick"):
        get_recipe("quik")


def test_random_and_alternate_flips_cannot_be_combined() -> None:
    with pytest.raises(ConfigError, match=r"flip_p is 0.5; it must be 0 with"):
        get_recipe("speedrun", flip_p=0.5)
