"""Run the trials of a sweep with Ray Tune. Everything that depends on Ray is in this module and cluster_ray.

Ray gives each trial a process with its share of cores and GPUs, on this machine or on those of a cluster, and Tune
stops trials early. What the sweep has done is in its own folder, not in Tune's: an interrupted sweep is a new Tune
experiment with the runs that are left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, DeviceError, FastCifarError, FastCifarWarning
from fastcifar.extras import needs_extra
from fastcifar.runs.results import EpochResult
from fastcifar.runs.seeds import is_last
from fastcifar.sweep.folder import SweepFolder, TrialResult, write_outcome
from fastcifar.sweep.plan import Resources, Stop, Trial
from fastcifar.sweep.schedule import Schedule
from fastcifar.training.signals import GracefulStop, stop_on_signals

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints even if it is to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # run folders have the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails at once has no accuracy
}.items():
    os.environ.setdefault(_name, _value)

with needs_extra("sweep", "a sweep"):
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
    from ray.tune.search import Searcher

    from fastcifar.sweep.cluster_ray import choose_shares, connect

METRIC, TIME = "accuracy", "percent_done"
FIRST_DECISION = 10
"""Percent of a trial's epochs after which it can be stopped first."""
CRASHES = 2
"""Times that a trial is started again after its process has crashed."""
CHECK_SECONDS = 5.0
"""Time between two checks that the cluster still has a machine."""


class Listener(Protocol):
    """Is told about the trials of a running sweep."""

    def started(self, trial: Trial) -> None:
        """A trial has a process."""

    def epoch(self, trial: Trial, epoch: int, accuracy: float) -> None:
        """A trial has finished an epoch."""

    def ended(self, result: TrialResult) -> None:
        """A trial has finished, failed, or was stopped."""


def run_trials(folder: SweepFolder, resources: Resources, listener: Listener) -> None:
    """Run the trials that are left, and those of new configurations.

    Raises:
        StoppedError: a signal asked for it.
        ConfigError: the cluster cannot be reached, or no machine of it has the resources of a trial.
    """
    schedule = Schedule(folder)
    with connect(resources.address), stop_on_signals() as stop:  # in this order: Ray has a handler of SIGTERM
        shares = choose_shares(resources, folder)
        search, storage = _Search(folder, schedule, listener), folder.path.absolute() / "ray"
        shutil.rmtree(storage, ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, shares),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=search,
                scheduler=_scheduler(folder.plan.options.stop),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage),
                callbacks=[_Callback(search, stop)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=CRASHES),
                verbose=0,
            ),
        )
        tuner.fit()


def _scheduler(stop: Stop) -> TrialScheduler:
    """Return what stops trials early. Trials are compared after equal parts of their epochs."""
    if stop == "asha":
        return ASHAScheduler(TIME, METRIC, "max", max_t=101, grace_period=FIRST_DECISION, reduction_factor=3)
    if stop == "median":
        return MedianStoppingRule(TIME, METRIC, "max", grace_period=FIRST_DECISION)
    return FIFOScheduler()


class _Search(Searcher):
    """Gives Tune the runs of the schedule."""

    def __init__(self, folder: SweepFolder, order: Schedule, listener: Listener) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.folder, self.schedule, self.listener = folder, order, listener
        self.trials: dict[str, Trial] = {}
        """The runs by the names that Tune gives them."""

    def suggest(self, trial_id: str) -> Any:
        """Return the settings of the next run, or that there are no more."""
        while (trial := self.schedule.next()) is not None:
            try:
                config = self.schedule.config(trial)
            except ConfigError as error:
                write_outcome(self.folder.run_dir(trial), "failed", str(error))
                self.end(trial)
                continue
            self.trials[trial_id] = trial
            return {"config": config.to_json(), "keep_checkpoints": self.folder.plan.options.keep_checkpoints}
        return Searcher.FINISHED

    def end(self, trial: Trial, error: str | None = None) -> None:
        """Tell the schedule and the listener that a run has ended, perhaps with an error that its folder lacks."""
        self.schedule.end(trial)
        result = self.folder.result(trial)
        if error is not None and result.outcome == "unfinished":
            result = dataclasses.replace(result, error=error)
        self.listener.ended(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback has more details."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()  # Tune saves it, and never needs it again

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the sweep's folder has everything."""


class _Callback(tune.Callback):
    """Tells the listener what Tune does, and stops Tune on a signal."""

    def __init__(self, search: _Search, stop: GracefulStop) -> None:
        self._search, self._stop, self._checked_at = search, stop, time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Stop if a signal asked for it, or if no machine is left, for which Tune would wait for ever."""
        self._stop.check()
        if time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._checked_at = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                raise DeviceError(
                    "Ray's processes have ended, perhaps for lack of memory; continue with `fastcifar sweep --resume "
                    f"{self._search.folder.path}`"
                )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a process."""
        self._search.listener.started(self._trial(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has finished an epoch, or ended."""
        if METRIC in result:
            self._search.listener.epoch(self._trial(trial), result["epoch"], result[METRIC])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or since the scheduler stopped it."""
        ours, folder = self._trial(trial), self._search.folder
        error = trial.last_result.get("error")
        if error is None and folder.result(ours).outcome == "unfinished":
            write_outcome(folder.run_dir(ours), "stopped")
        self._search.end(ours, error)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process has crashed too often."""
        self._search.end(self._trial(trial), f"its process ended unexpectedly ({_last_line(trial.error_file)})")

    def _trial(self, trial: Any) -> Trial:
        return self._search.trials[trial.trial_id]


def _last_line(path: str | None) -> str:
    """Return the last line of a traceback, which names the error."""
    lines = Path(path).read_text(errors="replace").split("\n") if path else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "perhaps for lack of memory")


class _Trainable(tune.Trainable):
    """A trial in its own process, which trains several one after the other."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a trial."""
        warnings.simplefilter("ignore", FastCifarWarning)  # each process would repeat them
        shares = self.trial_resources
        self._begin(config, 1 if shares is None else max(1, int(shares.required_resources.get("CPU", 1))))

    def _begin(self, config: dict[str, Any], threads: int) -> None:
        import torch

        from fastcifar.sweep.trial import train_trial

        torch.set_num_threads(threads)
        settings = TrainConfig.from_json(config["config"])
        self._threads, self._settings = threads, settings.replace(workers=settings.data.workers or threads)
        self._epochs: Generator[EpochResult] = train_trial(self._settings, config["keep_checkpoints"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process."""
        self.cleanup()
        self._begin(new_config, self._threads)
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch."""
        try:
            result = next(self._epochs, None)
        except (FastCifarError, OSError) as error:
            return {"done": True, "error": str(error)}
        if result is None:  # what an earlier call of the sweep has done of it, and stopped, was reported again
            return {"done": True}
        values = {"epoch": result.epoch, TIME: 100 * result.epoch / result.epochs, METRIC: result.test_accuracy}
        return {**values, "done": is_last(result, self._settings)}

    def cleanup(self) -> None:
        """End a trial that may be in the middle of its epochs: its files are closed, and its folder unlocked."""
        with contextlib.suppress(FastCifarError, OSError):
            self._epochs.close()
