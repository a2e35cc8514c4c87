"""`fastcifar seeds`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.commands.shared import chosen_recipe, ensure_betons, output_folder, require_one_process, take_flag
from fastcifar.config import TrainConfig
from fastcifar.errors import StoppedError
from fastcifar.recipe_files import SUFFIX
from fastcifar.recipes import DEFAULT_RECIPE
from fastcifar.runs.seeds import SeedOptions, SeedRun, SeedsFolder, read_seeds

if TYPE_CHECKING:
    from fastcifar.data.manifest import Manifest
    from fastcifar.device import Runtime
    from fastcifar.report.seeds import SeedsConsole
    from fastcifar.training.signals import GracefulStop


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Train a recipe from many seeds in one process; write the mean, interval and distribution of the accuracies.

    `fastcifar seeds quick -n 20` trains the recipe 'quick' from 20 seeds. The network is compiled once, and the data
    stays in memory; each run has the accuracies of a separate `fastcifar train` with its seed. Each has a run folder in
    --run-dir, where seeds.json has all accuracies and accuracies.png shows them.
    """

    recipe: str = DEFAULT_RECIPE
    """Named set of defaults, see below; also without --recipe, as the first argument."""
    runs: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 10
    """Runs to train, from --seed and the seeds after it; -n is the same."""
    until: float | None = None
    """Stop earlier, after at least five runs, when half the width of the mean's 95 % confidence interval is at most
    this many points of accuracy, such as 0.1."""
    processes: int = 1
    """Processes that train side by side, each with its share of the cores, for runs that do not fill the device."""
    keep_checkpoints: Literal["none", "last"] = "none"
    """Checkpoints that finished runs keep: none, so that hundreds of runs take little space, or the last one."""
    resume: Path | None = None
    """Continue the runs in this folder, with the settings and options of the first call; a larger -n adds runs."""
    source: str = "auto"
    """Data source if the .beton files are missing, as in `fastcifar write-beton --source`."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check(self, processes=AT_LEAST_1)
        self._options()

    def run(self) -> int:
        """Train the seeds that are missing, and write seeds.json after each run and the figure at the end."""
        from fastcifar.data.manifest import read_manifest
        from fastcifar.data.pair import SPLITS, split_path
        from fastcifar.device import apply_process_settings

        require_one_process()
        config = self.config.derived_from(None if self.recipe == "custom" else Path(self.recipe).name)
        apply_process_settings(config.runtime)
        ensure_betons(config.data.data_dir, self.source)
        manifest = read_manifest(split_path(config.data.data_dir, SPLITS[0]))
        with output_folder(self.resume or config.run_dir, f"{config.name.removesuffix(SUFFIX)}-seeds") as path:
            folder = SeedsFolder(path, config.replace(run_dir=None), manifest.content_sha256)
            with folder.open():
                self._train_in(folder, manifest)
        return 0

    def _train_in(self, folder: SeedsFolder, manifest: Manifest) -> None:
        from fastcifar.device import resolve_runtime
        from fastcifar.report.seeds import FIGURE, SeedsConsole, draw_accuracies
        from fastcifar.training.signals import stop_on_signals

        runtime = resolve_runtime(folder.config.runtime)
        options, first = self._options(), folder.config.runtime.seed
        found = {seed: folder.finished(seed) for seed in range(first, first + options.runs)}
        runs = [run for run in found.values() if run is not None]
        with SeedsConsole(options) as console, stop_on_signals() as stop:
            interval = folder.write(runs, options)
            console.header(self._facts(runtime, folder.config, manifest), runtime.notes, interval)

            def missing() -> Iterator[int]:
                for seed in (seed for seed, run in found.items() if run is None):
                    if options.enough(interval):
                        return
                    yield seed

            try:
                for run in self._train(folder, missing(), console, stop):
                    runs = sorted([*runs, run], key=lambda each: each.seed)
                    interval = folder.write(runs, options)
                    assert interval is not None
                    console.finished(run, interval)
            except StoppedError as stopped:
                resume = f"resume with `fastcifar seeds --resume {folder.path}`"
                stopped.args = (f"stopped after {len(runs)} of {options.runs} runs; {resume}",)
                raise
            assert interval is not None
            draw_accuracies(runs, interval, folder.path / FIGURE, folder.config.name)
            console.summary(interval, [folder.path / "seeds.json", folder.path / FIGURE])

    def _train(
        self, folder: SeedsFolder, seeds: Iterator[int], console: SeedsConsole, stop: GracefulStop
    ) -> Iterator[SeedRun]:
        if self.processes == 1:
            from fastcifar.training.seed_runs import train_seeds

            yield from train_seeds(folder, self._options(), seeds, stop=stop, on_step=console.step)
            return
        from fastcifar.training.seed_processes import SeedProcesses

        with SeedProcesses(folder, self._options(), self.processes) as processes:
            yield from processes.train_seeds(seeds, stop=stop)

    def _options(self) -> SeedOptions:
        return SeedOptions(runs=self.runs, until=self.until, keep_checkpoints=self.keep_checkpoints)

    def _facts(self, runtime: Runtime, config: TrainConfig, manifest: Manifest) -> dict[str, str]:
        first = config.runtime.seed
        ends = "" if self.until is None else f", until the mean is known to ± {self.until:g} points"
        side_by_side = "" if self.processes == 1 else f", {self.processes} processes"
        return {
            "recipe": f"{config.name}, {config.epochs:g} epochs, batches of {config.data.batch_size}",
            "images": f"{manifest.name}, {manifest.samples:,} training images",
            "device": f"{runtime.describe_device()}, {runtime.describe_precision()}{side_by_side}",
            "seeds": f"{first} to {first + self.runs - 1}{ends}",
        }


def seeds_arguments(arguments: list[str]) -> list[str]:
    """Give the recipe, which may be the first argument, its flag."""
    named = arguments and not arguments[0].startswith("-")
    return ["--recipe", *arguments] if named else arguments


def seeds_default(arguments: list[str]) -> Seeds:
    """Return the defaults of the flags: those of the recipe, or the settings and options of the runs to continue."""
    arguments = seeds_arguments(arguments)
    resume, _ = take_flag(arguments, "--resume")
    if resume is None:
        config = chosen_recipe(arguments)
        return Seeds(recipe=config.name, config=config)
    before = read_seeds(Path(resume))
    return Seeds(
        recipe=before.config.name,
        config=before.config,
        resume=Path(resume),
        runs=before.options.runs,
        until=before.options.until,
        keep_checkpoints=before.options.keep_checkpoints,
    )
