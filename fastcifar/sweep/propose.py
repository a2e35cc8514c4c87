"""The configurations of a sweep, one after the other: all of a grid, random ones, or those that Optuna's TPE suggests.

TPE, the tree-structured Parzen estimator, is by Bergstra et al., *Algorithms for hyper-parameter optimization*, 2011.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from fastcifar.extras import needs_extra
from fastcifar.sweep.plan import SweepPlan, Values
from fastcifar.sweep.space import Choice, Range, Space

MOST_DRAWS = 1000
"""Draws until a random configuration counts as one that cannot be new."""


class Proposer(Protocol):
    """Chooses configurations. Those of an earlier call of the sweep are proposed again first."""

    def propose(self) -> Values | None:
        """Return the next configuration; None if there are no more."""

    def tell(self, configuration: int, accuracy: float | None) -> None:
        """Take the mean accuracy of a configuration whose runs have ended; None if all of them failed."""


def create_proposer(plan: SweepPlan, earlier: Sequence[Values]) -> Proposer:
    """Return the proposer of a plan, which proposes the `earlier` configurations again first.

    Raises:
        ConfigError: Optuna is needed, and not installed.
    """
    if plan.options.method == "tpe":
        return TPE(plan, earlier)
    return InOrder(grid(plan.dimensions) if plan.options.method == "grid" else draw_distinct(plan))


def grid(space: Space) -> list[Values]:
    """Return all combinations of the values."""
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(each.examples for each in space.values()))
    ]


def draw_distinct(plan: SweepPlan) -> list[Values]:
    """Draw random configurations; fewer if the search space does not have as many."""
    generator, drawn = random.Random(plan.first_seed), []  # the same values whenever it is called
    for _ in range(plan.options.trials + MOST_DRAWS):
        values = {name: options.draw(generator) for name, options in plan.dimensions.items()}
        if values not in drawn:
            drawn.append(values)
        if len(drawn) == plan.options.trials:
            break
    return drawn


class InOrder:
    """Proposes the configurations of a list."""

    def __init__(self, configurations: Sequence[Values]) -> None:
        self._left = iter(configurations)

    def propose(self) -> Values | None:
        """Return the next configuration of the list."""
        return next(self._left, None)

    def tell(self, configuration: int, accuracy: float | None) -> None:
        """Do nothing: accuracies change nothing."""


class TPE:
    """Proposes configurations near the best ones so far."""

    def __init__(self, plan: SweepPlan, earlier: Sequence[Values]) -> None:
        with needs_extra("sweep", "method tpe"):
            import optuna

        self._space, self._most = plan.dimensions, plan.options.trials
        self._running: list[Any] = []
        self._distributions = {name: _distribution(optuna, options) for name, options in self._space.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `constant_liar`, which spreads runs side by side, counts as experimental
            sampler = optuna.samplers.TPESampler(seed=plan.first_seed % 2**32, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._failed = optuna.trial.TrialState.FAIL
        for values in earlier:
            self._study.enqueue_trial(
                {name: _to_optuna(options, values[name]) for name, options in self._space.items()}
            )

    def propose(self) -> Values | None:
        """Return a configuration."""
        if len(self._running) >= self._most:
            return None
        trial = self._study.ask(self._distributions)
        self._running.append(trial)
        return {name: _from_optuna(options, trial.params[name]) for name, options in self._space.items()}

    def tell(self, configuration: int, accuracy: float | None) -> None:
        """Let later proposals depend on an accuracy."""
        trial = self._running[configuration]
        self._study.tell(trial, accuracy, state=self._failed if accuracy is None else None)


def _distribution(optuna: Any, options: Choice | Range) -> Any:
    if isinstance(options, Choice):  # by their index: Optuna does not choose lists
        return optuna.distributions.CategoricalDistribution(range(len(options.values)))
    if options.kind == "randint":
        return optuna.distributions.IntDistribution(options.low, options.high)
    return optuna.distributions.FloatDistribution(options.low, options.high, log=options.kind == "loguniform")


def _to_optuna(options: Choice | Range, value: Any) -> Any:
    return options.values.index(value) if isinstance(options, Choice) else value


def _from_optuna(options: Choice | Range, value: Any) -> Any:
    return options.values[value] if isinstance(options, Choice) else value
