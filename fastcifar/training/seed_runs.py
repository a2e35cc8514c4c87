"""Train the run folders of many seeds, in this process or in several side by side."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from fastcifar.errors import TrainingError
from fastcifar.runs.checkpoint import has_checkpoint
from fastcifar.runs.folder import RunFolder
from fastcifar.runs.results import StepProgress
from fastcifar.runs.seeds import SeedOptions, SeedRun, SeedsFolder
from fastcifar.training.seeds import SeedTrainer
from fastcifar.training.signals import GracefulStop

OnSeedStep = Callable[[int, StepProgress], None]
"""Called with the seed after each step is started."""


def train_seeds(
    folder: SeedsFolder,
    options: SeedOptions,
    seeds: Iterable[int],
    *,
    stop: GracefulStop,
    on_step: OnSeedStep | None = None,
) -> Iterator[SeedRun]:
    """Train the seeds one after the other in this process, and yield the result of each.

    Raises:
        StoppedError: `stop` asked for it; the running seed has a checkpoint.
        TrainingError: a run cannot go on; the message has its seed.
        FastCifarError: bad input, as one of its other subclasses.
    """
    with SeedTrainer(folder.config, checkpoints=options.keep_checkpoints) as trainer:
        for seed in seeds:
            yield train_seed(trainer, folder, options, seed, stop=stop, on_step=on_step)


def train_seed(
    trainer: SeedTrainer,
    folder: SeedsFolder,
    options: SeedOptions,
    seed: int,
    *,
    stop: GracefulStop,
    on_step: OnSeedStep | None = None,
) -> SeedRun:
    """Train the run of one seed in its folder, or the rest of it if it was stopped, and return its result."""
    run_dir = folder.run_dir(seed)
    if not has_checkpoint(run_dir):
        folder.discard(seed)
    if trainer.prepare(seed, run_dir).is_finished:  # it was killed between its last checkpoint and its last result
        folder.discard(seed)
        trainer.prepare(seed, run_dir)
    report = None if on_step is None else lambda progress: on_step(seed, progress)
    try:
        deque(trainer.fit_epochs(on_step=report, stop=stop), maxlen=0)
    except TrainingError as error:
        raise TrainingError(f"seed {seed}: {error}") from error
    RunFolder(run_dir).keep_checkpoints([options.keep_checkpoints])
    finished = folder.finished(seed)
    assert finished is not None
    return finished
