"""Runs that differ in their seeds only, as groups: the mean of each group, and how precisely it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.files import dump_json
from fastcifar.intervals import mean_interval
from fastcifar.recipes import RECIPES, get_recipe
from fastcifar.runs.listing import Row
from fastcifar.runs.seeds import MAY_DIFFER

IGNORED = MAY_DIFFER | {"seed", "device"}
"""Settings that the runs of a group may differ in."""
MOST_CHARACTERS = 16
"""Of a value in `changes`: the start of a hash is enough."""
COMPARED = ("data", "data_sha256", *(name for name in SETTINGS if name not in IGNORED))


def differences(described: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each run for every name whose value is not the same in all of them; None if it has none."""
    names = dict.fromkeys(name for values in described for name in values)
    columns = {name: [values.get(name) for values in described] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def group_over_seeds(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return a row per group of runs with equal settings and data, the group with the highest mean last.

    Each has these values, followed by every setting that is not the same in all groups:

    - `recipe`, and `changes`, the settings in which the group differs from its recipe or from others of this recipe;
    - `runs` and `seeds`, the numbers of runs and of different seeds;
    - of the column `metric` the mean, under its own name, the sample standard deviation `sd` and `ci95`, half the width
      of the 95 % confidence interval of the mean. The last two are None for a single run.

    Runs without the metric are left out.

    Raises:
        ConfigError: the metric is not a number.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row[metric] is not None:
            groups.setdefault(dump_json([row[name] for name in COMPARED]), []).append(row)
    first = [{"recipe": group[0]["recipe"], **{name: group[0][name] for name in COMPARED}} for group in groups.values()]
    varied = [name for name in differences(first) if name != "recipe"]
    summaries = [
        {"recipe": one["recipe"], "changes": _changes(one, varied, first), **_summarize(group, metric)}
        | {name: one[name] for name in varied}
        for one, group in zip(first, groups.values(), strict=True)
    ]
    return sorted(summaries, key=lambda summary: summary[metric])


def _changes(one: Row, varied: Sequence[str], others: Sequence[Row]) -> str:
    """Return the settings, as NAME=VALUE, that tell a group from its recipe or from other groups of that recipe."""
    usual = _recipe_settings(one["recipe"])
    in_recipe = differences([other for other in others if other["recipe"] == one["recipe"]])
    named = [name for name in varied if name in in_recipe or usual.get(name, one[name]) != one[name]]
    return " ".join(f"{name}={str(one[name])[:MOST_CHARACTERS]}" for name in named)


def _recipe_settings(recipe: str) -> Row:
    """Return the settings of a recipe; none for a recipe file, which may have been changed."""
    if recipe == TrainConfig().name:
        return TrainConfig().to_json()
    return get_recipe(recipe).to_json() if recipe in RECIPES else {}


def _summarize(group: Sequence[Row], metric: str) -> Row:
    values = [row[metric] for row in group]
    if not all(isinstance(value, (int, float)) for value in values):
        raise ConfigError(f"metric is {metric!r}; it must be a column of numbers, such as final_accuracy")
    interval = mean_interval(values)
    counts = {"runs": len(group), "seeds": len({row["seed"] for row in group})}
    return {**counts, metric: interval.mean, "sd": interval.deviation, "ci95": interval.half_width}
