"""Time training steps that several processes share, and compare them with what is predicted from a single one.

    python -m benchmarks.scaling era speedrun --ranks 1 2 4 --out benchmarks/results/scaling-cpu.json

Each process has one GPU, or one thread on one core of a CPU; if there are more processes than cores, they share them
equally. Everything is measured in turn:

- a step of the recipe's batch, divided among the processes ("training");
- steps of one process whose batch is such a share ("alone"), and of independent processes at the same time, one on each
  core or GPU ("side by side");
- all-reduces between the processes, without training;
- with Muon, the orthogonalisation of all filters in each process ("orthogonalisation"), and shared by the processes.

The prediction (`scaling_model.py`) uses all of these except the training of several processes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
import tyro

from benchmarks.harness import NOT_EMPTY, new_results, run_command, show_progress, summarize
from benchmarks.scaling_predict import ORTHOGONALIZED, SHARED, describe_work, predict
from benchmarks.time_to_90 import RecipeOptions, read_recipe
from fastcifar.checks import AT_LEAST_1, check, each
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import open_beton
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.machine import AFFINITY

SIZES = (1024, 64 * 1024, 1024**2, 4 * 1024**2, 32 * 1024**2)
"""Bytes of the all-reduces that are timed."""


@dataclass(frozen=True, kw_only=True)
class Scaling(RecipeOptions):
    """Time training steps on several processes, and predict them from one."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recipes, with changes to their settings as NAME:setting=value,setting=value."""
    ranks: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes."""
    rounds: int = 5
    """Measurements of each part that are counted."""

    def __post_init__(self) -> None:
        check(self, rounds=AT_LEAST_1, recipes=NOT_EMPTY, ranks=each(AT_LEAST_1))
        if 1 not in self.ranks:
            raise ConfigError(f"ranks are {list(self.ranks)}; 1 must be among them, for the others to be compared with")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of work that is timed in each round."""

    part: str
    ranks: int
    """Processes that do it."""
    images: int = 0
    """Images per process."""
    bytes: int = 0
    work: dict[str, Any]
    """The request to the processes."""


class Group:
    """Connected processes that wait for requests. A context manager that ends them."""

    def __init__(self, count: int, settings: dict[str, Any], cores: Sequence[int] | None) -> None:
        """Start them, each bound to one of the cores in turn; not bound if there are no cores."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        shared = {
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": _free_port(),
        }
        self._processes = [
            self._start(shared | {"RANK": rank, "LOCAL_RANK": rank}, cores[rank % len(cores)] if cores else None)
            for rank in range(count)
        ]
        self._send(settings)

    def _start(self, variables: dict[str, Any], core: int | None) -> subprocess.Popen[str]:
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        if core is not None:
            environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", "benchmarks.scaling_worker"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        with _bound_to(core):
            return subprocess.Popen(command, env=environment, text=True, **pipes)

    def seconds(self, request: dict[str, Any]) -> float:
        """Let all processes do a piece of work; return the time of the slowest.

        Raises:
            FastCifarError: one of them has failed; the message has the last line of its stderr.
        """
        self._send(request)
        lines = [process.stdout.readline() for process in self._processes if process.stdout]
        if not all(lines):
            self._errors.seek(0)
            last = (self._errors.read().strip() or "nothing on stderr").splitlines()[-1]
            raise FastCifarError(f"a process of this benchmark has failed: {last}")
        return max(float(json.loads(line)["seconds"]) for line in lines)

    def _send(self, message: dict[str, Any]) -> None:
        for process in self._processes:
            with suppress(BrokenPipeError):  # `seconds` notices that it has ended
                if process.stdin:
                    process.stdin.write(json.dumps(message) + "\n")
                    process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with suppress(BrokenPipeError):
                if process.stdin:
                    process.stdin.close()
        for process in self._processes:
            with process:  # waits for its end
                pass
        self._errors.close()


def main(settings: Scaling) -> None:
    """Measure, predict, and write the results after each recipe."""
    configs = {name: _config(name, settings) for name in settings.recipes}
    runtime = settings.runtime()
    cores = sorted(AFFINITY) if runtime.device.type == "cpu" else None
    devices = len(cores) if cores else torch.cuda.device_count()
    kept = {"ranks": list(settings.ranks), "rounds": settings.rounds, "devices": devices}
    _, manifest = open_beton(settings.data_dir / "train.beton")
    results = new_results("scaling", runtime, manifest, settings=kept)
    with ExitStack() as stack:
        first = next(iter(configs.values())).to_json()
        groups = {n: stack.enter_context(Group(n, first, cores)) for n in settings.ranks}
        for name, config in configs.items():
            for group in groups.values():
                group.seconds({"work": "open", "arguments": {"settings": config.to_json()}})
            parts = list(_parts(config, settings.ranks, devices))
            measured = [
                {"recipe": name, "part": part.part, "ranks": part.ranks, "images": part.images, "bytes": part.bytes}
                | {"seconds": summarize(seconds)}
                for part, seconds in zip(parts, _time_in_turn(groups, parts, name, settings.rounds), strict=True)
            ]
            work = describe_work(config, manifest)
            predicted = predict(measured, work, devices=devices, on_cpu=cores is not None)
            trained = (run for run in measured if run["part"] == "training")
            for run, seconds in zip(trained, predicted, strict=True):
                run |= {"predicted": seconds, **work}
            results.runs += measured
            results.write(settings.out)


def _config(name: str, settings: Scaling) -> TrainConfig:
    """Return a recipe's configuration; its images come from memory, and its batches can be divided."""
    config = read_recipe(name, settings)
    for ranks in settings.ranks:
        if config.data.batch_size % ranks:
            raise ConfigError(f"{name}: batch_size is {config.data.batch_size}; it must be a multiple of {ranks} ranks")
    return config.replace(loader="memmap", cache_on_device=False)


def _parts(config: TrainConfig, ranks: Iterable[int], devices: int) -> Iterator[Part]:
    """Yield what is timed for a recipe."""
    batch_size = config.data.batch_size
    beside = max(count for count in ranks if count <= devices)
    for count in ranks:
        images = batch_size // count
        yield Part(part="training", ranks=count, images=images, work=_train(batch_size, alone=False))
        if count == beside > 1:
            yield Part(part="side by side", ranks=count, images=images, work=_train(images, alone=True))
        if count > 1:
            yield Part(part="alone", ranks=1, images=images, work=_train(images, alone=True))
            yield from _exchanges(count, config.optim.optimizer == "muon")


def _exchanges(ranks: int, muon: bool) -> Iterator[Part]:
    """Yield the exchanges between processes that are timed without training."""
    for size in SIZES:
        work = {"work": "all_reduce", "arguments": {"size": size}}
        yield Part(part="all-reduce", ranks=ranks, bytes=size, work=work)
    for name, share in ((ORTHOGONALIZED, False), (SHARED, True)):
        if muon:
            yield Part(part=name, ranks=ranks, work={"work": "orthogonalize", "arguments": {"share": share}})


def _train(batch_size: int, *, alone: bool) -> dict[str, Any]:
    return {"work": "train", "arguments": {"batch_size": batch_size, "alone": alone}}


def _time_in_turn(groups: dict[int, Group], parts: Sequence[Part], name: str, rounds: int) -> list[list[float]]:
    """Return the seconds of each part in each round. The parts take turns, after one round that is not counted."""
    seconds: list[list[float]] = [[] for _ in parts]
    for number in range(rounds + 1):
        for part, values in zip(parts, seconds, strict=True):
            show_progress(f"timing {name}, {part.part}, {part.ranks} ranks", number, rounds + 1, "rounds")
            values.append(groups[part.ranks].seconds(part.work))
    return [values[1:] for values in seconds]


@contextmanager
def _bound_to(core: int | None) -> Iterator[None]:
    """Let processes that are started in the block run on one core only."""
    if core is None:
        yield
        return
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, AFFINITY)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    run_command(main, __doc__)
