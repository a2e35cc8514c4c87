"""`fastcifar sweep`."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.commands.shared import ensure_betons, output_folder, require_one_process
from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import CheckpointError, ConfigError, StoppedError
from fastcifar.recipes import DEFAULT_RECIPE, get_recipe

if TYPE_CHECKING:
    from fastcifar.report.sweep import SweepConsole
    from fastcifar.sweep.folder import SweepFolder
    from fastcifar.sweep.plan import SweepOptions, SweepPlan

FIXED = ("recipe", "search", "space", "seeds", "method", "stop", "on_test_set", "run_dir")
"""Options that a sweep keeps when it is resumed; with those of all settings."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train recipes with many combinations of settings, several runs side by side, and compare them (Ray Tune).

    `fastcifar sweep --recipe speedrun --search 'max_lr=loguniform(0.1, 0.5)' --trials 8 --seeds 3` trains 24 runs. They
    are compared on a part of the training set that is held out, a tenth unless --val-fraction is given. The folder has
    a run folder per run, a table of the configurations, and the best one as a recipe, best.toml.
    """

    recipe: tuple[str, ...] = (DEFAULT_RECIPE,)
    """Recipes to train, see below, or files with one, NAME.toml; all other options apply to each of them."""
    search: tuple[str, ...] = ()
    """Values to search, as in max_lr=loguniform(0.1, 0.5), with choice(a, b, ...), uniform(low, high),
    loguniform(low, high) or randint(low, high)."""
    space: Path | None = None
    """TOML file with the values to search: SETTING = "loguniform(0.1, 0.5)", or a list of values."""
    method: Literal["grid", "random", "tpe"] | None = None
    """All combinations (grid), random ones, or those that Optuna's TPE suggests from earlier ones; a grid if all
    settings have choices, and random otherwise, if not given."""
    trials: int = 10
    """Configurations to try, unless they are those of a grid."""
    seeds: int = 1
    """Runs of each configuration, from --seed and the seeds after it."""
    stop: Literal["none", "asha", "median"] = "none"
    """Stop runs early that are worse than others after equal parts of their epochs: asynchronous successive halving
    (asha), or those below the median."""
    on_test_set: bool = False
    """Compare runs on the test set, which then cannot tell any more how good the best one is on new images."""
    cpus_per_trial: float = 1.0
    """CPU cores of each run, which has as many threads."""
    gpus_per_trial: float | None = None
    """GPUs of each run, such as 0.25 for four runs on one GPU; 1 if there are GPUs, and 0 otherwise, if not given."""
    address: str | None = None
    """Address of a Ray cluster, such as 10.0.0.1:6379 or auto; Ray is started on this machine if not given."""
    keep_checkpoints: Literal["none", "last"] = "none"
    """Checkpoints that finished runs keep: none, or the last one. Those that are stopped early keep theirs."""
    resume: Path | None = None
    """Continue the sweep in this folder, with its settings; more --trials add configurations."""
    source: str = "auto"
    """Data source if the .beton files are missing, as in `fastcifar write-beton --source`."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    given: tyro.conf.Suppress[
        tuple[str, ...]
    ] = ()  # set by `sweep_default`: the names of the flags on the command line

    def __post_init__(self) -> None:
        check(self, trials=AT_LEAST_1, seeds=AT_LEAST_1)

    def run(self) -> int:
        """Run the trials that are left, and write the table and the best recipe."""
        from fastcifar.sweep.folder import SweepFolder, read_sweep

        require_one_process()
        if self.resume is not None:
            folder = read_sweep(self.resume)
            plan = folder.plan
            options = dataclasses.replace(plan.options, trials=self.trials, keep_checkpoints=self.keep_checkpoints)
            plan = dataclasses.replace(plan, options=options)
            self._require_same_data(plan)
            return self._run_in(SweepFolder(self.resume, plan, folder.configurations), is_new=False)
        plan = self._plan()
        with output_folder(self.config.run_dir, "sweep") as path:
            return self._run_in(SweepFolder(path, plan), is_new=True)

    def _run_in(self, folder: SweepFolder, *, is_new: bool) -> int:
        from fastcifar.report.sweep import SweepConsole
        from fastcifar.sweep.engine_ray import run_trials
        from fastcifar.sweep.plan import Resources
        from fastcifar.sweep.table import read_trials

        resources = Resources(
            cpus_per_trial=self.cpus_per_trial, gpus_per_trial=self.gpus_per_trial, address=self.address
        )
        with folder.open(is_new=is_new), SweepConsole(folder) as console:
            console.header(self._facts(folder.plan), read_trials(folder))
            try:
                run_trials(folder, resources, console)
            except StoppedError as stopped:
                done = sum(result.outcome != "unfinished" for result in read_trials(folder))
                resume = f"resume with `fastcifar sweep --resume {folder.path}`"
                stopped.args = (f"stopped; runs done so far: {done}; {resume}",)
                raise
            return _conclude(folder, console)

    def _plan(self) -> SweepPlan:
        """Return the plan of a new sweep; write missing data once its search space is known to be right."""
        from fastcifar.data.manifest import read_manifest
        from fastcifar.data.pair import SPLITS, split_path
        from fastcifar.sweep.plan import SweepPlan, compared_on, without_folder
        from fastcifar.sweep.space import check_space, parse_search, read_space

        space = parse_search(self.search) | ({} if self.space is None else read_space(self.space))
        recipes = {}
        for name in self.recipe:
            config = get_recipe(name).replace(**self._settings())
            recipes[config.name] = without_folder(compared_on(config, on_test_set=self.on_test_set))
        check_space(space, recipes)
        options = self._options({"recipe": list(recipes), **space})
        plan = SweepPlan(options=options, space=space, recipes=recipes, content_sha256="")
        ensure_betons(self.config.data.data_dir, self.source)
        manifest = read_manifest(split_path(self.config.data.data_dir, SPLITS[0]))
        return dataclasses.replace(plan, content_sha256=manifest.content_sha256)

    def _settings(self) -> dict[str, Any]:
        """Return the settings that the command line gives to all recipes."""
        groups = {name: SETTINGS[name][0] for name in self.given if name in SETTINGS}
        config = self.config
        return {
            name: getattr(config if group is None else getattr(config, group), name) for name, group in groups.items()
        }

    def _options(self, space: dict[str, Any]) -> SweepOptions:
        from fastcifar.sweep.plan import SweepOptions
        from fastcifar.sweep.space import Range

        has_ranges = any(isinstance(options, Range) for options in space.values())
        return SweepOptions(
            method=self.method or ("random" if has_ranges else "grid"),
            stop=self.stop,
            seeds=self.seeds,
            trials=self.trials,
            on_test_set=self.on_test_set,
            keep_checkpoints=self.keep_checkpoints,
        )

    def _require_same_data(self, plan: SweepPlan) -> None:
        from fastcifar.data.manifest import read_manifest
        from fastcifar.data.pair import SPLITS, split_path

        data_dir = next(iter(plan.recipes.values())).data.data_dir
        if read_manifest(split_path(data_dir, SPLITS[0])).content_sha256 != plan.content_sha256:
            raise CheckpointError(f"{self.resume}: its runs have other data than {data_dir}; write that again")

    def _facts(self, plan: SweepPlan) -> dict[str, str]:
        options = plan.options
        stop = "" if options.stop == "none" else f", {options.stop} stops runs early"
        seeds = "" if options.seeds == 1 else f", {options.seeds} seeds each"
        most = "" if options.method == "grid" else f", {options.trials} configurations"
        return {
            "recipes": ", ".join(plan.recipes),
            "search": ", ".join(f"{name}={choices}" for name, choices in plan.space.items()) or "the recipes only",
            "method": f"{options.method}{most}{seeds}{stop}",
            "compared": f"on the {plan.split}",
        }


def _conclude(folder: SweepFolder, console: SweepConsole) -> int:
    """Write and print the result that follows from the run folders; return the exit code."""
    from fastcifar.report.sweep import write_results
    from fastcifar.sweep.table import configuration_rows, read_trials

    trials = read_trials(folder)
    rows = configuration_rows(folder, trials)
    console.summary(rows, [result for result in trials if result.error], write_results(folder, rows))
    return 0 if any(row["finished"] or row["stopped"] for row in rows) else 1


def sweep_default(arguments: list[str]) -> Sweep:
    """Return the defaults of the flags: those of the first recipe, or the settings of the sweep to resume."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", nargs="*", default=[])
    parser.add_argument("--resume", nargs="?")
    known, _ = parser.parse_known_args(arguments)
    given = given_flags(arguments)
    if known.resume is None:
        return Sweep(config=get_recipe([*known.recipe, DEFAULT_RECIPE][0]), given=given)
    from fastcifar.sweep.folder import read_sweep

    if fixed := [name for name in given if name in FIXED or name in SETTINGS]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise ConfigError(f"{flags} cannot be combined with --resume: a sweep keeps the settings of its start")
    plan = read_sweep(Path(known.resume)).plan
    return Sweep(
        config=next(iter(plan.recipes.values())),
        resume=Path(known.resume),
        trials=plan.options.trials,
        keep_checkpoints=plan.options.keep_checkpoints,
        given=given,
    )


def given_flags(arguments: list[str]) -> tuple[str, ...]:
    """Return the names of the flags in the arguments, without the "no" that switches a setting off."""
    names = [each.partition("=")[0][2:].replace("-", "_") for each in arguments if each.startswith("--")]
    return tuple(name if name in SETTINGS else name.removeprefix("no_") for name in names)
