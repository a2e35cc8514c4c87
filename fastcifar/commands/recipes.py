"""`fastcifar recipes`."""

from dataclasses import dataclass

from fastcifar.recipes import RECIPES, describe_recipe, get_recipe


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, the named sets of defaults for training."""

    def run(self) -> int:
        """Print one line per recipe."""
        print(f"{'recipe':<12}{'epochs':<8}description")
        for name in RECIPES:
            print(f"{name:<12}{get_recipe(name).epochs:<8g}{describe_recipe(name)}")
        return 0
