"""Train many seeds in several processes side by side, for small runs that do not fill the device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import SpawnProcess

from fastcifar.child_processes import ignored_interrupts, when_parent_ends
from fastcifar.device import apply_process_settings
from fastcifar.errors import FastCifarError, FastCifarWarning, StoppedError, TrainingError
from fastcifar.machine import AFFINITY
from fastcifar.runs.seeds import SeedOptions, SeedRun, SeedsFolder
from fastcifar.training.seed_runs import train_seed
from fastcifar.training.seeds import SeedTrainer
from fastcifar.training.signals import GracefulStop, stop_on_signals

POLL_SECONDS = 0.5


class SeedProcesses:
    """Processes that train one seed at a time each, with their share of the cores. A context manager that ends them."""

    def __init__(self, folder: SeedsFolder, options: SeedOptions, count: int) -> None:
        self._folder, self._options, self._count = folder, options, count
        self._processes: dict[connection.Connection, SpawnProcess] = {}

    def train_seeds(self, seeds: Iterable[int], *, stop: GracefulStop) -> Iterator[SeedRun]:
        """Train seeds as the function `train_seeds` does; yield the results in the order in which they are done.

        A seed is taken from `seeds` when a process is free for it.

        Raises:
            StoppedError: `stop` asked for it; the running seeds have checkpoints.
            FastCifarError: bad input, as one of its other subclasses, or a process was killed.
        """
        seeds = iter(seeds)
        busy = {conn for conn in self._processes if _hand_out(conn, seeds)}
        while busy:
            done = connection.wait(busy, POLL_SECONDS)
            if stop.signal is not None:
                yield from self._finish(busy)
                stop.check()
            for conn in done:
                assert isinstance(conn, connection.Connection)
                yield self._receive(conn)
                if not _hand_out(conn, seeds):
                    busy.remove(conn)

    def _receive(self, conn: connection.Connection) -> SeedRun:
        try:
            result = conn.recv()
        except (EOFError, ConnectionError):
            process = self._processes[conn]
            process.join()
            raise TrainingError(
                f"a process that trained a seed ended with code {process.exitcode}, perhaps for lack of memory; use "
                f"fewer --processes, and continue with `fastcifar seeds --resume {self._folder.path}`"
            ) from None
        if isinstance(result, FastCifarError):
            raise result
        assert isinstance(result, SeedRun)
        return result

    def _finish(self, busy: set[connection.Connection]) -> Iterator[SeedRun]:
        """Let the processes stop at the next batch, and yield the results of those that had just finished."""
        for conn in busy:
            self._processes[conn].terminate()
        for conn in busy:
            with contextlib.suppress(TrainingError):  # it stopped within a run
                yield self._receive(conn)

    def __enter__(self) -> SeedProcesses:
        context = multiprocessing.get_context("spawn")
        with ignored_interrupts():
            for cores in share_cores(sorted(AFFINITY), self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, self._folder, self._options), daemon=True)
                with _on_cores(cores):
                    process.start()
                theirs.close()
                self._processes[ours] = process
        return self

    def __exit__(self, *_: object) -> None:
        for conn, process in self._processes.items():
            conn.close()  # an idle process ends
            process.join(POLL_SECONDS)
            process.kill()
            process.join()
        self._processes.clear()


def share_cores(cores: Sequence[int], count: int) -> list[set[int]]:
    """Divide the cores among `count` processes; if there are fewer cores, some processes share one."""
    return [set(cores[first::count]) or {cores[first % len(cores)]} for first in range(count)]


def _hand_out(conn: connection.Connection, seeds: Iterator[int]) -> bool:
    """Give the next seed to a process; return whether there was one."""
    seed = next(seeds, None)
    if seed is None:
        return False
    with contextlib.suppress(ConnectionError):  # it has ended, which `_receive` notices
        conn.send(seed)
    return True


@contextmanager
def _on_cores(cores: set[int]) -> Iterator[None]:
    """Let a process that is started in the block inherit these cores, from which its threads are counted."""
    if not hasattr(os, "sched_setaffinity"):  # macOS and Windows
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _work(conn: connection.Connection, folder: SeedsFolder, options: SeedOptions) -> None:
    """Train the seeds that the connection gives until it is closed; send each result, or the error that ended one."""
    warnings.simplefilter("ignore", FastCifarWarning)  # each process would repeat them
    ended = (StoppedError, EOFError, ConnectionError, KeyboardInterrupt)
    with stop_on_signals() as stop, contextlib.suppress(*ended):
        when_parent_ends(_stop)
        try:
            apply_process_settings(folder.config.runtime)
            with SeedTrainer(folder.config, checkpoints=options.keep_checkpoints) as trainer:
                while True:
                    conn.send(train_seed(trainer, folder, options, conn.recv(), stop=stop))
        except StoppedError:  # its checkpoint is saved; the other process knows
            raise
        except FastCifarError as error:
            conn.send(error)


def _stop() -> None:
    """Stop this process at its next batch."""
    os.kill(os.getpid(), signal.SIGTERM)
