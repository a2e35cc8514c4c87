"""The configuration of a run, which holds every group of settings, and that of a learning-rate range test.

A setting's name is unique over all groups. It is the flag (`--max-lr`), the key in config.json and the keyword of
`TrainConfig.replace`; in Python the setting is `config.optim.max_lr`.
"""

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from fastcifar import settings
from fastcifar.checks import ABOVE_0_TO_1, AT_LEAST_1, BELOW_1, POSITIVE, check, type_hints
from fastcifar.errors import ConfigError, closest

MIN_POINTS = 10
"""Fewest finite losses from which a range test can suggest a learning rate."""


@dataclass(frozen=True, kw_only=True)
class LrFinderSettings:
    """Learning-rate range test."""

    start_lr: float = 1e-6
    """Lowest learning rate of the range test, its first."""
    end_lr: float = 1.0
    """Highest learning rate of the range test, its last unless the loss diverges earlier."""
    iterations: int = 100
    """Steps of the range test, each with its own learning rate."""
    mode: Literal["exp", "linear"] = "exp"
    """Spacing of the learning rates: a constant factor or a constant difference between neighbours."""
    smoothing: float = 0.1
    """Weight of each new loss in the running mean that the curve shows; 0 for no smoothing."""
    diverge: float = 5.0
    """The test stops when the smoothed loss exceeds its minimum times this factor."""

    def __post_init__(self) -> None:
        check(
            self,
            start_lr=POSITIVE,
            end_lr=(lambda value: self.start_lr < value < math.inf, f"finite and above start_lr, {self.start_lr}"),
            iterations=(lambda value: value >= MIN_POINTS, f"at least {MIN_POINTS}"),
            smoothing=BELOW_1,
            diverge=(lambda value: 1 < value < math.inf, "above 1 and finite"),
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of one training run."""

    epochs: float = 24
    """Passes over the training set, which the schedule spans; the last one may be partial."""
    target_accuracy: float | None = None
    """Stop after the first evaluation with at least this accuracy (0 to 1)."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; only at the end of each epoch if not given."""
    dynamics: bool = False
    """Save the loss, correctness and margin of each training image in each epoch to the run folder, as Parquet files,
    for `fastcifar dynamics`."""
    run_dir: Path | None = None
    """Run folder; runs/<time>-<recipe> on the command line if not given, none in Python."""
    data: settings.DataSettings = field(default_factory=settings.DataSettings)
    optim: settings.OptimSettings = field(default_factory=settings.OptimSettings)
    runtime: settings.RuntimeSettings = field(default_factory=settings.RuntimeSettings)
    augment: settings.AugmentSettings = field(default_factory=settings.AugmentSettings)
    model: settings.ModelSettings = field(default_factory=settings.ModelSettings)
    init: settings.InitSettings = field(default_factory=settings.InitSettings)
    freezing: settings.FreezeSettings = field(default_factory=settings.FreezeSettings)
    resize: settings.ResizeSettings = field(default_factory=settings.ResizeSettings)
    tta: settings.TTASettings = field(default_factory=settings.TTASettings)
    base_recipe: str | None = field(default=None, init=False, compare=False)
    """The recipe that this configuration was derived from: provenance, not a setting. `get_recipe` sets it."""

    def __post_init__(self) -> None:
        check(self, epochs=POSITIVE, checkpoint_every=AT_LEAST_1, target_accuracy=ABOVE_0_TO_1)
        if self.data.sampler == "balanced" and self.optim.class_weights == "balanced":
            raise ConfigError(
                "class_weights is 'balanced'; it must be 'none' with the sampler 'balanced', which has balanced the "
                "classes already"
            )
        if self.runtime.cuda_graphs and self.optim.peak_momentum is not None:
            raise ConfigError(
                "cuda_graphs is True; it must be False if the momentum cycles (peak_momentum), which a captured step "
                "cannot do"
            )

    @property
    def name(self) -> str:
        """The recipe's name, or "custom" for a configuration that was not derived from a recipe."""
        return self.base_recipe or "custom"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values of some settings, by name, such as `replace(max_lr=1e-3, epochs=2)`.

        The copy keeps `base_recipe`.

        Raises:
            ConfigError: there is no such setting, or a value has the wrong type or is not allowed.
        """
        groups: dict[str | None, dict[str, Any]] = {None: {}}
        for name, value in changes.items():
            if name not in SETTINGS:
                raise ConfigError(f"there is no setting {name!r}: did you mean {closest(name, SETTINGS)}?")
            groups.setdefault(SETTINGS[name][0], {})[name] = value
        own = groups.pop(None)
        nested = {str(group): dataclasses.replace(getattr(self, str(group)), **new) for group, new in groups.items()}
        return dataclasses.replace(self, **own, **nested).derived_from(self.base_recipe)

    def derived_from(self, recipe: str | None) -> Self:
        """Return a copy with another `base_recipe`. For `get_recipe`, and for readers of a run's files."""
        derived = copy.copy(self)
        object.__setattr__(derived, "base_recipe", recipe)
        return derived

    def to_json(self) -> dict[str, Any]:
        """Return the settings by name as plain JSON values: paths as text, tuples as lists."""
        values: dict[str, Any] = {"base_recipe": self.base_recipe}
        for name, (group, _) in SETTINGS.items():
            value = getattr(self if group is None else getattr(self, group), name)
            values[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the configuration that `to_json` wrote; settings that are missing have their defaults.

        Raises:
            ConfigError: a setting is unknown, has the wrong type, or has a value that is not allowed.
        """
        changes = dict(values)
        recipe = changes.pop("base_recipe", None)
        if not isinstance(recipe, str | None):
            raise ConfigError(f"base_recipe is {recipe!r}; it must be text or None")
        return cls().replace(**changes).derived_from(recipe)


_HINTS = type_hints(TrainConfig)
GROUPS = {name: hint for name, hint in _HINTS.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
"""The groups of settings: the dataclasses by their attributes of `TrainConfig`."""
SETTINGS: dict[str, tuple[str | None, Any]] = {
    **{name: (None, hint) for name, hint in _HINTS.items() if name not in GROUPS},
    **{name: (group, hint) for group, kind in GROUPS.items() for name, hint in type_hints(kind).items()},
}
"""Every setting by name: the attribute of `TrainConfig` that holds its group (None for its own), and its type."""
