"""Named recipes: each a function whose docstring tells the command and the result it gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError


def era() -> TrainConfig:
    """The 24 epochs of the exercise: batch 512, Adam, one-cycle with its peak at the end of epoch 5.

        fastcifar train --recipe era --amp

    The rate falls back to a tenth of its peak and not below. The exercise's own peak of 5.34e-3 ends, at 5.34e-4, above
    the rate at which the weights settle; 2e-3 lets them.
    """
    return TrainConfig(recipe="era", max_lr=2e-3)


def quick() -> TrainConfig:
    """The same network in the two epochs that a quarter of an hour on two CPU cores allows, in bfloat16.

        fastcifar train --recipe quick

    Small batches give it more steps, a weaker augmentation less to learn, and the rate falls to nearly nothing.
    """
    return TrainConfig(
        recipe="quick",
        epochs=2,
        batch_size=128,
        max_lr=2e-3,
        pct_start=0.25,
        final_div_factor=100.0,
        weight_decay=0.0,
        padding=2,
        padding_mode="reflect",
        cutout=0,
        amp=True,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"era": era, "quick": quick}


def get_recipe(name: str, **changes: Any) -> TrainConfig:
    """A recipe's configuration, with changes to its settings.

    Raises:
        ConfigError: there is no recipe of that name, no such setting, or a value that is not allowed.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
        raise ConfigError(f"recipe is {name!r}; there is {', '.join(RECIPES)}: did you mean {near}?")
    return TrainConfig.from_json({**RECIPES[name]().to_json(), **changes})
