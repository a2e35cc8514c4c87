"""Learning rates and batch size of a training: given, found by a range test, scaled, or those of a run to resume."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastcifar.commands.lr_find import find_lr
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.report.terminal import make_console
from fastcifar.runs.read import read_config

if TYPE_CHECKING:
    from fastcifar.lr_finder.suggest import Suggestion

LEARNING_RATES = ("max_lr", "bias_lr", "head_lr", "div_factor")
"""The settings that a range test or --scale-batch may change."""


def find_for(config: TrainConfig, run_dir: Path) -> Suggestion:
    """Run a range test, show its result, and save it in the folder of the run that will follow."""
    from fastcifar.runs.folder import RunFolder

    RunFolder(run_dir).require_empty()
    found = find_lr(config)
    found.show(make_console())
    found.save(run_dir)
    return found.suggestion


def with_lrs(
    config: TrainConfig, found: Suggestion | None, min_lr: float | Literal["find"] | None, *, finds_max: bool
) -> TrainConfig:
    """Return the configuration with the learning rates that were given or found.

    Raises:
        ConfigError: `min_lr` is higher than max_lr.
    """
    if found is not None and finds_max:
        from fastcifar.lr_finder.suggest import tested_lrs

        config = config.replace(**tested_lrs(config, found.max_lr))
    if min_lr == "find":
        min_lr = found.min_lr if found is not None else None
    if min_lr is None:
        return config
    first, highest = float(min_lr), config.optim.max_lr
    if not 0 < first <= highest:
        raise ConfigError(f"min_lr is {first!r}; it must be above 0 and at most max_lr, {highest!r}")
    return config.replace(div_factor=highest / first)


def scale_batch(config: TrainConfig, factor: int) -> TrainConfig:
    """Multiply the batch size and the learning rates of a configuration.

    Source of the linear scaling: Goyal et al., *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour*, 2017.
    """
    rates = {name: factor * getattr(config.optim, name) for name in ("max_lr", "bias_lr", "head_lr")}
    return config.replace(batch_size=factor * config.data.batch_size, **rates)


def with_saved(config: TrainConfig, run: Path, names: Iterable[str]) -> TrainConfig:
    """Return a configuration with some settings of the run in a folder.

    Raises:
        CheckpointError: the folder has no settings, or damaged ones.
    """
    saved = read_config(run).to_json()
    return config.replace(**{name: saved[name] for name in names})
