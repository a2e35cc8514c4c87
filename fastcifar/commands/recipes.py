"""`fastcifar recipes`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastcifar.config import TrainConfig
from fastcifar.recipe_files import format_recipe
from fastcifar.recipes import RECIPES, describe_recipe, get_recipe


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, the named sets of defaults for training, or print one as a file."""

    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = None
    """Recipe, recipe file or run folder whose settings to print as a recipe file."""

    def run(self) -> int:
        """Print one line per recipe, or the settings of one."""
        if self.recipe is not None:
            print(format_recipe(_config_of(self.recipe)), end="")
            return 0
        print(f"{'recipe':<12}{'epochs':<8}description")
        for name in RECIPES:
            print(f"{name:<12}{get_recipe(name).epochs:<8g}{describe_recipe(name)}")
        return 0


def _config_of(recipe: str) -> TrainConfig:
    if not Path(recipe).is_dir():
        return get_recipe(recipe)
    from fastcifar.runs.read import read_config

    return read_config(Path(recipe))
