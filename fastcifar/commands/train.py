"""`fastcifar train`."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastcifar.checks import AT_LEAST_1, check, check_divisible
from fastcifar.commands.shared import chosen_recipe, ensure_betons, output_folder, take_flag
from fastcifar.commands.train_lrs import LEARNING_RATES, find_for, scale_batch, with_lrs, with_saved
from fastcifar.commands.train_messages import announce, progress_in_words, run_header, why_finished
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, StoppedError
from fastcifar.files import dump_json
from fastcifar.recipe_files import SUFFIX, write_recipe
from fastcifar.recipes import DEFAULT_RECIPE
from fastcifar.settings import LogName

if TYPE_CHECKING:
    from fastcifar.lr_finder.suggest import Suggestion
    from fastcifar.parallel import Processes

DEFAULT_LOG_DIR = Path("logs")
LAUNCHED = "WORLD_SIZE"
"""The environment variable that a launcher such as torchrun sets."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network. The recipe gives the defaults of all other options.

    With --resume, the settings are those of the resumed run. With --max-lr find or --min-lr find, a range test as in
    `fastcifar lr-find` comes first, and its curve is kept; Muon's bias_lr and head_lr change in proportion.
    """

    recipe: str = DEFAULT_RECIPE
    """Name of a recipe or a file NAME.toml."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    find_max_lr: tyro.conf.Suppress[bool] = False  # set by `train_default` for `--max-lr find`
    arguments: tyro.conf.Suppress[tuple[str, ...]] = ()  # set by `train_default`, for --nproc
    min_lr: float | Literal["find"] | None = None
    """First learning rate of the one-cycle schedule (LRMIN), instead of --div-factor."""
    resume: Path | None = None
    """Folder of a run to resume from its last checkpoint."""
    auto_resume: bool = False
    """Resume the run in --run-dir if it has a checkpoint, and start it otherwise, so that the same command can be
    started again, by a batch system or by torchrun --max-restarts."""
    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""
    save_recipe: Path | None = None
    """Write the resolved configuration as a recipe file, such as mine.toml, for --recipe. An existing file is
    replaced."""
    report: bool = True
    """Write figures and report.html to the run folder, as `fastcifar report` does; not for a run with
    --val-fraction, since they use the test set."""
    log: tuple[LogName, ...] = ()
    """Also write the settings and the results of each epoch to TensorBoard, MLflow or Weights & Biases."""
    log_dir: Path | None = None
    """Folder for the files of --log, where each run has its own place; logs if not given. Without --log, TensorBoard
    events are written to it."""
    requeue_exit_code: int | None = None
    """Exit code, from 1 to 255, of a run that a batch system stops with SIGTERM, SIGUSR1, SIGUSR2 or SIGXCPU, for a job
    script that then submits the job again; 128 + the signal's number if not given."""
    nproc: int | None = None
    """Processes that train the run together on this machine, each on its own GPU or its share of the cores, as with
    torchrun --nproc-per-node."""
    scale_batch: bool = False
    """With several processes, multiply the batch size and the learning rates by their number."""
    source: str = "auto"
    """Data source if the .beton files are missing, as in `fastcifar write-beton --source`."""

    def __post_init__(self) -> None:
        check(self, requeue_exit_code=(lambda code: 1 <= code <= 255, "from 1 to 255"), nproc=AT_LEAST_1)
        if self.auto_resume and (self.resume is not None or self.config.run_dir is None):
            wanted = "cannot be combined with resume" if self.resume is not None else "needs a run_dir"
            raise ConfigError(f"auto_resume is True; it {wanted}")

    def run(self) -> int:
        """Write missing .beton files, find learning rates if requested, train, and write the report."""
        if self.nproc is not None and LAUNCHED not in os.environ:
            from fastcifar.launch import launch

            check_divisible(self.nproc if self.scale_batch else self.config.data.batch_size, self.nproc)
            return launch(self.nproc, ["train", *take_flag([*self.arguments], "--nproc")[1]])
        from fastcifar.parallel import join, quiet_unless_first

        if self._finds and (self.dry_run or self.resume is not None):
            other = "--dry-run" if self.dry_run else "--resume"
            raise ConfigError(f"--max-lr find and --min-lr find cannot be combined with {other}: give numbers")
        config = self.config.derived_from(None if self.recipe == "custom" else Path(self.recipe).name)
        if self.dry_run:
            print(dump_json(self._resolve(config).to_json(), indent=2))
            return 0
        own = {"resume": str(self.resume), "auto_resume": self.auto_resume, "scale_batch": self.scale_batch}
        with join(config.runtime.device, {**config.to_json(), **own}) as processes, quiet_unless_first(processes):
            self._train_together(config, processes)
        return 0

    @property
    def _finds(self) -> bool:
        """Whether a range test finds learning rates first."""
        return self.find_max_lr or self.min_lr == "find"

    def _train_together(self, config: TrainConfig, processes: Processes) -> None:
        """Train as one of the processes. The first one prepares data, folder and learning rates, and writes files."""
        from fastcifar.data.pair import SPLITS
        from fastcifar.device import apply_process_settings
        from fastcifar.runs.checkpoint import has_checkpoint
        from fastcifar.runs.data import require_betons

        apply_process_settings(config.runtime)
        with ExitStack() as stack:
            with processes.first_only("preparation") as is_first:
                resumes = self.resume is not None
                if is_first:
                    folder = output_folder(self.resume or config.run_dir, config.name.removesuffix(SUFFIX))
                    run_dir = stack.enter_context(folder)
                    resumes = resumes or (self.auto_resume and has_checkpoint(run_dir))
                    prepare = self._continue if resumes else self._begin
                    config = prepare(config.replace(run_dir=run_dir), run_dir, processes)
            config, resumes = processes.from_first((config, resumes))
            if resumes:
                assert config.run_dir is not None
                splits = ["train"] if config.data.val_fraction else SPLITS
                require_betons(config.run_dir, config.data.data_dir, splits)
            self._train_in(config, processes, resumes=resumes)

    def _begin(self, config: TrainConfig, run_dir: Path, processes: Processes) -> TrainConfig:
        """Write missing data, find learning rates if requested, and return the settings of a new run."""
        from fastcifar.parallel import alone

        ensure_betons(config.data.data_dir, self.source)
        with alone():
            found = find_for(config, run_dir) if self._finds else None
        config = self._resolve(config, found)
        return scale_batch(config, processes.count) if self.scale_batch else config

    def _continue(self, config: TrainConfig, run_dir: Path, processes: Processes) -> TrainConfig:
        """Return the settings of a run that goes on. Those that were found or scaled stay as they were."""
        if self._finds or self.scale_batch:
            config = with_saved(config, run_dir, LEARNING_RATES)
        if self.scale_batch:
            config = with_saved(config, run_dir, ["batch_size"])
        return self._resolve(config)

    def _train_in(self, config: TrainConfig, processes: Processes, *, resumes: bool) -> None:
        """Train, and write the report."""
        from fastcifar.training.signals import REQUEUE_SIGNALS

        try:
            _train(config, resume=resumes, logs=self._logs(), log_dir=self.log_dir or DEFAULT_LOG_DIR)
        except StoppedError as stopped:
            if self.requeue_exit_code is not None and stopped.signal in REQUEUE_SIGNALS:
                stopped.exit_code = self.requeue_exit_code
            raise
        with processes.first_only("report") as is_first:
            if is_first and self.report and not config.data.val_fraction:
                from fastcifar.report.run_page import write_report

                assert config.run_dir is not None
                page = write_report(config.run_dir, device=config.runtime.device, data_dir=config.data.data_dir)
                print(f"Report: {page}")

    def _logs(self) -> tuple[LogName, ...]:
        return self.log if self.log or self.log_dir is None else ("tensorboard",)

    def _resolve(self, config: TrainConfig, found: Suggestion | None = None) -> TrainConfig:
        """Return the configuration with the learning rates that were given or found, and save it as a recipe."""
        config = with_lrs(config, found, self.min_lr, finds_max=self.find_max_lr)
        if self.save_recipe is not None:
            write_recipe(self.save_recipe, config)
        return config


def train_arguments(arguments: list[str]) -> list[str]:
    """Remove `--max-lr find`, which `train_default` has read, since the setting is a number."""
    value, others = take_flag(arguments, "--max-lr")
    return others if value == "find" else arguments


def train_default(arguments: list[str]) -> Train:
    """Return the defaults of the flags: those of the recipe, or the settings of the run to resume."""
    resume, _ = take_flag(arguments, "--resume")
    finds = take_flag(arguments, "--max-lr")[0] == "find"
    given = tuple(arguments)
    if resume is None:
        config = chosen_recipe(arguments)
        return Train(recipe=config.name, config=config, find_max_lr=finds, arguments=given)
    from fastcifar.runs.read import read_config

    config = read_config(Path(resume))
    return Train(recipe=config.name, config=config, find_max_lr=finds, arguments=given, resume=Path(resume))


def _train(config: TrainConfig, *, resume: bool, logs: tuple[LogName, ...], log_dir: Path) -> None:
    from fastcifar.report.console import TrainingConsole
    from fastcifar.report.loggers import open_logs
    from fastcifar.runs.read import read_metrics
    from fastcifar.training.loop import fit_epochs
    from fastcifar.training.resume import restore
    from fastcifar.training.signals import stop_on_signals
    from fastcifar.training.state import create_state

    assert config.run_dir is not None
    with TrainingConsole(target_accuracy=config.target_accuracy) as console, ExitStack() as stack:
        state = stack.enter_context(create_state(config))
        if resume and (damage := restore(config.run_dir, state)):
            console.say(f"{damage}. Resuming from the checkpoint before it, {progress_in_words(state)}")
        console.header(run_header(state))
        for note in state.notes:
            console.say(note)
        logs = logs if state.processes.is_first else ()
        consumers = [console.epoch, stack.enter_context(open_logs(logs, log_dir, config)).epoch]
        earlier = read_metrics(config.run_dir)[: state.epochs_done] if resume and state.processes.is_first else []
        for result in earlier:
            for consume in consumers:
                consume(result)
        if state.is_finished:
            console.say(why_finished(state, earlier))
        else:
            announce(state, console)
        stop = stack.enter_context(stop_on_signals())
        try:
            for result in fit_epochs(state, on_step=console.step, stop=stop):
                for consume in consumers:
                    consume(result)
        except (StoppedError, OSError) as error:
            if isinstance(error, OSError) and not _lost_terminal(error):
                raise
            # writing a line may fail before the signal says that the terminal is gone
            stopped = StoppedError(signal.Signals(stop.signal or signal.SIGHUP))
            stopped.args = (
                f"stopped {progress_in_words(state)}; resume with `fastcifar train --resume {config.run_dir}`",
            )
            raise stopped from error
        console.summary(config.run_dir)


def _lost_terminal(error: OSError) -> bool:
    """Return whether the error comes from writing to a terminal that is gone; an error of a file has a file name."""
    return error.errno == errno.EIO and error.filename is None
