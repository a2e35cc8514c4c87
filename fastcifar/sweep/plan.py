"""The plan of a sweep: its options, search space and recipes, from which each run's settings follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastcifar.checks import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.migrations import migrate_config
from fastcifar.runs.json_files import check_types
from fastcifar.sweep.space import Choice, Range, Space, parse_expression

Method = Literal["grid", "random", "tpe"]
Stop = Literal["none", "asha", "median"]
VAL_FRACTION = 0.1
"""Part of the training set on which a sweep compares its runs, if no other one is given."""

Values = dict[str, Any]
"""The values of one configuration: the searched settings by name, and `recipe`."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How the configurations are chosen, and how many runs they get."""

    method: Method
    stop: Stop = "none"
    seeds: int = 1
    """Runs of each configuration, from the recipe's seed and the ones after it."""
    trials: int = 10
    """Configurations to try; a grid has all of them."""
    on_test_set: bool = False
    keep_checkpoints: Literal["none", "last"] = "none"

    def __post_init__(self) -> None:
        check(self, seeds=AT_LEAST_1, trials=AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The CPUs and GPUs of each trial, and the Ray cluster on which trials run."""

    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    """None for one GPU per trial where the cluster has some and the device is not the CPU."""
    address: str | None = None
    """The address of a Ray cluster; None to start Ray on this machine, and to end it with this process."""

    def __post_init__(self) -> None:
        check(self, cpus_per_trial=POSITIVE, gpus_per_trial=NOT_NEGATIVE)


@dataclass(frozen=True, order=True)
class Trial:
    """One run of a sweep."""

    configuration: int
    """Its number, from 0."""
    seed: int

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{self.configuration:04d}-seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Everything that decides the settings of a sweep's runs, apart from the values that are drawn."""

    options: SweepOptions
    space: Space
    recipes: Mapping[str, TrainConfig]
    """The settings of each recipe by its name, with those that all runs share."""
    content_sha256: str
    """Of the training set's manifest."""

    def __post_init__(self) -> None:
        ranges = [f"{name}={options}" for name, options in self.space.items() if isinstance(options, Range)]
        if self.options.method == "grid" and ranges:
            raise ConfigError(f"a grid has no end with {ranges[0]}; use choice(…), or --method random or tpe")

    @property
    def dimensions(self) -> Space:
        """The search space with the recipe as its first choice."""
        return {"recipe": Choice(tuple(self.recipes)), **self.space}

    @property
    def split(self) -> str:
        """The images on which accuracies are compared: "test set" or "validation split"."""
        return "test set" if self.options.on_test_set else "validation split"

    @property
    def first_seed(self) -> int:
        """The seed of each configuration's first run."""
        return next(iter(self.recipes.values())).runtime.seed

    @property
    def seeds(self) -> range:
        """The seeds of each configuration's runs."""
        return range(self.first_seed, self.first_seed + self.options.seeds)

    def trials_of(self, configuration: int) -> list[Trial]:
        """Return the runs of a configuration."""
        return [Trial(configuration, seed) for seed in self.seeds]

    def config(self, values: Values, **changes: Any) -> TrainConfig:
        """Return the settings of a run with the values of its configuration.

        Raises:
            ConfigError: the values do not fit each other.
        """
        searched = {name: value for name, value in values.items() if name != "recipe"}
        return self.recipes[values["recipe"]].replace(**searched, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "options": dataclasses.asdict(self.options),
            "space": {name: str(options) for name, options in self.space.items()},
            "recipes": {name: config.to_json() for name, config in self.recipes.items()},
            "content_sha256": self.content_sha256,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SweepPlan:
        """Return the plan that `to_json` wrote.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: a value is missing, or of another type.
        """
        recipes = {name: TrainConfig.from_json(migrate_config(config)) for name, config in values["recipes"].items()}
        return cls(
            options=check_types(values["options"], SweepOptions),
            space={name: parse_expression(name, text) for name, text in values["space"].items()},
            recipes=recipes,
            content_sha256=str(values["content_sha256"]),
        )


def compared_on(config: TrainConfig, *, on_test_set: bool) -> TrainConfig:
    """Return the settings of a sweep's runs: evaluated on a validation split, unless the test set is asked for.

    Raises:
        ConfigError: the test set is asked for, and the settings have a validation split.
    """
    if on_test_set and config.data.val_fraction:
        raise ConfigError(
            f"val_fraction is {config.data.val_fraction}; it must be 0 with --on-test-set, or leave out --on-test-set"
        )
    if on_test_set or config.data.val_fraction:
        return config
    return config.replace(val_fraction=VAL_FRACTION)


def without_folder(config: TrainConfig) -> TrainConfig:
    """Return the settings that runs in different folders share, with an absolute path of the data for every worker."""
    return config.replace(run_dir=None, data_dir=Path(config.data.data_dir).absolute())
