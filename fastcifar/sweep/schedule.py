"""The order of a sweep's runs: those of an earlier call first, then those of new configurations."""

from __future__ import annotations

import statistics
from collections import deque

from fastcifar.config import TrainConfig
from fastcifar.sweep.folder import SweepFolder
from fastcifar.sweep.plan import Trial
from fastcifar.sweep.propose import create_proposer


class Schedule:
    """Hands out the runs of a sweep, and tells the search how good their configurations are."""

    def __init__(self, folder: SweepFolder) -> None:
        """Runs that failed before are left out.

        Those that are done are handed out only if runs are stopped early: their accuracies are then needed again.
        """
        self._folder, self._queue = folder, deque[Trial]()
        self._proposer = create_proposer(folder.plan, folder.configurations)
        self._ended: dict[Trial, float | None] = {}
        replays, unfinished = folder.plan.options.stop != "none", []
        for _ in folder.configurations:
            self._proposer.propose()
        for trial in folder.trials:
            result = folder.result(trial)
            if result.outcome == "unfinished":
                unfinished.append(trial)
                continue
            if replays and result.outcome != "failed":
                self._queue.append(trial)
            self.end(trial)
        self._queue.extend(unfinished)

    def next(self) -> Trial | None:
        """Return the next run; None if there are no more."""
        if not self._queue:
            values = self._proposer.propose()
            if values is None:
                return None
            self._queue.extend(self._folder.plan.trials_of(self._folder.add(values)))
        return self._queue.popleft()

    def config(self, trial: Trial) -> TrainConfig:
        """Return the settings of a run.

        Raises:
            ConfigError: the values of its configuration do not fit each other.
        """
        values = self._folder.configurations[trial.configuration]
        return self._folder.plan.config(values, seed=trial.seed, run_dir=self._folder.run_dir(trial))

    def end(self, trial: Trial) -> None:
        """Note that a run has ended. The search learns the mean accuracy when all runs of a configuration have."""
        if trial in self._ended:
            return
        result = self._folder.result(trial)
        self._ended[trial] = None if result.outcome == "failed" else result.accuracy
        others = self._folder.plan.trials_of(trial.configuration)
        if all(other in self._ended for other in others):
            accuracies = [value for other in others if (value := self._ended[other]) is not None]
            self._proposer.tell(trial.configuration, statistics.fmean(accuracies) if accuracies else None)
