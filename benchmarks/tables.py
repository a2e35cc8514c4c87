"""The tables of README.md and benchmarks/README.md, generated from the committed results.

    python -m benchmarks.tables            # print them
    python -m benchmarks.tables --write    # write them to the two files
    python -m benchmarks.tables --check    # fail if the files are not up to date, or if a result file lacks a field

Each table stands between two comments, <!-- NAME --> and <!-- end NAME -->. A row whose run had other settings than
today's recipe is marked with †.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.ablation import ablations
from benchmarks.common import RESULTS
from benchmarks.result_files import changed_settings, changes_of, find_problems, read_results
from benchmarks.work import ERA_EPOCH

ROOT = Path(__file__).parent.parent
NOT_MEASURED = "Not measured yet."
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")

Results = dict[str, Any]
"""A result file, from `read_results`."""


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


class Marks:
    """Marks for rows whose settings differ from today's recipe, and the footnote that names these settings."""

    def __init__(self) -> None:
        self._changed: dict[str, list[str]] = {}

    def label(self, label: str, runs: Iterable[Mapping[str, Any]], on_purpose: Sequence[str] = ()) -> str:
        """The label of a row that summarises `runs`, with a mark if it needs one.

        Args:
            label: the text of the label.
            runs: entries of a result file; changes in a training's name are on purpose.
            on_purpose: names of other settings that the benchmark changed.
        """
        changed: dict[str, None] = {}
        for run in runs:
            if "config" in run:  # peers have none
                on_purpose = [*on_purpose, *changes_of(run.get("name", ""))]
                changed |= dict.fromkeys(changed_settings(run["config"], on_purpose))
        if changed:
            self._changed[label] = list(changed)
        return f"{label} †" if changed else label

    def footnote(self) -> str:
        """The explanation of the marks; no text if no row is marked."""
        labels: dict[str, list[str]] = {}
        for label, names in self._changed.items():
            labels.setdefault(", ".join(names), []).append(label)
        differences = "; ".join(f"{', '.join(rows)} in {names}" for names, rows in labels.items())
        return differences and f"† The settings differ from today's recipe: {differences}."


def runs_table(*files: Results) -> str:
    """One row per run: recipe, device, epochs, accuracy, times."""
    marks = Marks()
    rows = [
        (
            marks.label(f"`{run['recipe']}`", [run]),
            _device(results),
            run["epochs"],
            _percent(run["test_accuracy"]),
            _duration(run["train_seconds"]),
            _duration(run["eval_seconds"]),
            f"{run['peak_memory_bytes'] / 2**30:.2f} GiB",
        )
        for results in files
        for run in results["runs"]
    ]
    columns = ("recipe", "device", "epochs", "test accuracy", "training time", "last evaluation", "peak memory")
    return _section(markdown_table(columns, rows), marks.footnote())


def step_parts_table(results: Results) -> str:
    """One row per part of a training step and batch size, and ratios of parts."""
    settings, marks = results["settings"], Marks()
    rows = []
    for run in results["runs"]:
        figures, part = results["figures"][str(run["batch_size"])], run["part"]
        cells = (
            form(figures[key][part]) if part in figures[key] else ""
            for key, form in (
                ("images_per_second", "{:,.0f}".format),
                ("gflop_per_second", "{:,.0f}".format),
                ("fraction_of_ceiling", lambda value: _percent(value, 0)),
            )
        )
        rows.append((run["batch_size"], PARTS.get(part, part), f"{run['seconds']['median']:.4g}", *cells))
    columns = ("batch size", "part", "median seconds", "images/s", "GFLOP/s", "relative to the ceiling")
    ratios = (
        f"Batch size {batch_size}: the whole step takes {figures['whole_relative_to_model']:.3f} times as long as the "
        f"model step, which takes {figures['plain_relative_to_model']:.2f} times as long in float32 and contiguous "
        "memory format."
        for batch_size, figures in results["figures"].items()
    )
    recipe = marks.label(f"`{results['config']['base_recipe']}`", [results])
    heading = f"{results['device']}, {results['precision']}, {recipe}; "
    heading += f"medians of {settings['rounds']} blocks of {settings['steps']} steps:"
    return _section(heading, markdown_table(columns, rows), *ratios, marks.footnote())


PARTS = {
    "matrix product": "bfloat16 matrix product (the ceiling)",
    "plain model step": "model step, float32, contiguous",
}


def max_lr_table(results: Results) -> str:
    """One row per multiple of the suggested learning rate."""
    settings, suggested, marks = results["settings"], results["suggestion"]["max_lr"], Marks()
    devices = "; ".join(dict.fromkeys(run["device"] for run in results["runs"]))
    recipe = marks.label(f"`{settings['recipe']}`", results["runs"], on_purpose=("epochs", "max_lr"))
    rows = []
    for multiple, mean in sorted(results["figures"]["mean_accuracy"].items(), key=lambda item: float(item[0])):
        runs = [run for run in results["runs"] if run["multiple"] == float(multiple)]
        each = ", ".join(_percent(run["test_accuracy"]) for run in runs)
        rows.append((f"{float(multiple) * suggested:.3g}", f"{multiple} ×", each, _percent(mean)))
    seeds = len({run["seed"] for run in results["runs"]})
    return _section(
        f"{devices}; recipe {recipe}, {settings['epochs']} epochs, evaluated on "
        f"{_percent(settings['val_fraction'], 0)} of the training set. The range test suggests {suggested:.3g}:",
        markdown_table(("max_lr", "relative to the suggestion", "validation accuracy of each seed", "mean"), rows),
        f"The suggestion is {100 * results['figures']['below_best']:.2f} points below the best mean; {seeds} of "
        f"{settings['seeds']} seeds were run.",
        marks.footnote(),
    )


def time_to_target_table(results: Results) -> str:
    """One row per recipe or peer: compute, runs, accuracies, times, and the median relative to the first row."""
    first, marks, rows = next(iter(results["figures"].values())), Marks(), []
    target, digits = results["settings"]["target_accuracy"], 1 if first["seconds"]["median"] > 10 else 3
    for name, values in results["figures"].items():
        seconds, several = values["seconds"], values["runs"] > 1
        runs = [run for run in results["runs"] if run["name"] == name]
        equivalents = values.get("era_epoch_equivalents")
        accuracies = (
            f"{_percent(accuracy['mean'])}{_deviation(100 * accuracy['stdev'], 2, several)}"
            for accuracy in (values["accuracy"], values["accuracy_without_tta"])
        )
        rows.append(
            (
                marks.label(f"`{name}`", runs),
                "–" if equivalents is None else f"{equivalents:.2f}",
                values["runs"],
                *accuracies,
                _percent(values["fraction_reaching_target"], 0),
                f"{seconds['mean']:.{digits}f}{_deviation(seconds['stdev'], digits, several)}",
                f"{seconds['median']:.{digits}f}",
                f"{seconds['median'] / first['seconds']['median']:.2f} ×",
            )
        )
    columns = (
        "training", "era-epoch equivalents", "runs", "accuracy", "accuracy without TTA",
        f"runs at {_percent(target, 0)} or more", "seconds", "median seconds", "relative to the first row",
    )  # fmt: skip
    return _section(f"{results['device']}:", markdown_table(columns, rows), marks.footnote())


TIME_TO_TARGET_LEGEND = (
    "± is the standard deviation over the runs. One era-epoch equivalent is the compute of one epoch of `era` "
    "(3 × 379.27 M multiply-adds per image). TTA is test-time augmentation."
)


def headline_table(*files: Results) -> str:
    """One row per device: the first recipe's accuracy and time, and its time relative to the fastest peer that reaches
    the target (median ratio over common seeds)."""
    rows, marks = [], Marks()
    for results in files:
        first, figures = next(iter(results["figures"].items()))
        rows.append(
            (
                marks.label(results["device"], [run for run in results["runs"] if run["name"] == first]),
                figures["runs"],
                _percent(figures["accuracy"]["mean"]),
                f"{figures['seconds']['median']:.3g}",
                _relative_to_fastest_peer(results, first),
            )
        )
    columns = ("device", "runs", "mean accuracy", "median seconds", "relative to the fastest peer")
    return _section(markdown_table(columns, rows), marks.footnote())


def _relative_to_fastest_peer(results: Results, name: str) -> str:
    figures = results["figures"]
    seconds = {
        each: {run["seed"]: run["seconds"] for run in results["runs"] if run["name"] == each} for each in figures
    }
    peers = [
        peer
        for peer in figures.keys() & results["peers"].keys()
        if figures[peer]["mean_reaches_target"] and seconds[peer].keys() & seconds[name].keys()
    ]
    if not peers:
        return "–"
    peer = min(peers, key=lambda peer: figures[peer]["seconds"]["median"])
    common = seconds[name].keys() & seconds[peer].keys()
    ratio = statistics.median(seconds[name][seed] / seconds[peer][seed] for seed in common)
    return f"{ratio:.2f} × {peer}"


def throughput_table(results: Results) -> str:
    """One row per training: images and multiply-adds per second of training time."""
    rows, marks = [], Marks()
    for name in results["figures"]:
        runs = [run for run in results["runs"] if run["name"] == name]
        images = statistics.median(_images(run) / run["train_seconds"] for run in runs)
        flops = statistics.median(2 * ERA_EPOCH * run["era_epoch_equivalents"] / run["train_seconds"] for run in runs)
        rows.append((marks.label(f"`{name}`", runs), len(runs), f"{images:,.0f}", f"{flops / 1e9:,.0f}"))
    table = markdown_table(("training", "runs", "images/s", "GFLOP/s"), rows)
    return _section(f"{results['device']}, medians:", table, marks.footnote())


def _images(run: Mapping[str, Any]) -> float:
    """Training images over all epochs of a run."""
    return sum(epoch["images_per_second"] * epoch["train_seconds"] for epoch in run["history"])


def ablation_table(results: Results, recipe: str) -> str:
    """One row per part: accuracy and time of the recipe without it, relative to the whole recipe from equal seeds."""
    runs: dict[str, dict[int, Results]] = {}
    for run in results["runs"]:
        runs.setdefault(run["name"], {})[run["seed"]] = run
    whole, marks = runs[recipe], Marks()
    without_tta = {
        seed: {**run, "final_accuracy": run["test_accuracy"], "seconds": run["train_seconds"] + run["eval_seconds"]}
        for seed, run in whole.items()
        if run["tta_accuracy"] is not None
    }
    parts = {part: runs.get(name, {}) for name, part in ablations(recipe).items()}
    mean = statistics.fmean(run["final_accuracy"] for run in whole.values())
    rows = [(marks.label("(the whole recipe)", whole.values()), len(whole), _percent(mean), "–", "1 ×")]
    for part, others in {"test-time augmentation": without_tta, **parts}.items():
        pairs = [(run, whole[seed]) for seed, run in others.items() if seed in whole]
        if pairs:
            mean = statistics.fmean(run["final_accuracy"] for run, _ in pairs)
            differences = [100 * (run["final_accuracy"] - base["final_accuracy"]) for run, base in pairs]
            error = f"{statistics.stdev(differences) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else "?"
            time = statistics.median(run["seconds"] / base["seconds"] for run, base in pairs)
            difference = f"{statistics.fmean(differences):+.2f} ± {error}"
            rows.append(
                (marks.label(part, [run for run, _ in pairs]), len(pairs), _percent(mean), difference, f"{time:.2f} ×")
            )
    columns = (f"`{recipe}` without", "seeds", "accuracy", "difference in points", "time relative to the whole recipe")
    heading = (
        f"{results['device']}. The difference is the mean over pairs of runs from equal seeds, ± its standard error."
    )
    return _section(heading, markdown_table(columns, rows), marks.footnote())


def course_table(*files: Results) -> str:
    """One row per course recipe and device: its epochs and accuracies, and the course's own accuracy."""
    marks = Marks()
    rows = [
        (
            marks.label(f"`{run['recipe']}`", [run]),
            _device(results),
            run["epochs"],
            _percent(run["test_accuracy"]),
            _percent(run["best_accuracy"]),
            COURSE[run["recipe"]],
        )
        for results in files
        for run in results["runs"]
    ]
    columns = ("recipe", "device", "epochs", "test accuracy", "best", "the course, 24 epochs")
    return _section(markdown_table(columns, rows), marks.footnote())


COURSE = {
    "course-a": "91.99 %",
    "course-b": "91.51 %",
    "course-c": "88.22 %",
    "course-d": "target 90 %",
    "course-e": "88.9, 88.94, 89.17 %",
    "dilated-cnn": "target 85 %",
}
"""The best test accuracies that the course solutions' pages name."""


def data_table(results: Results) -> str:
    """One row per piece of work on the data."""
    rows = [(run["part"], f"{run['seconds']['median']:.3f}") for run in results["runs"]]
    return _section(f"{results['device']}:", markdown_table(("work", "median seconds"), rows))


def augmentation_table(results: Results) -> str:
    """One row per implementation of the augmentation."""
    figures, settings = results["figures"], results["settings"]
    relative = figures["relative_to_fastcifar"]
    rows = [
        (part, f"{1e3 * run['seconds']['median']:.4g}", f"{relative[part]:.1f} ×" if part in relative else "")
        for run in results["runs"]
        for part in [run["part"]]
    ]
    return _section(
        f"{results['device']}, batches of {settings['batch_size']}, medians of {settings['rounds']}:",
        markdown_table(("augmentation", "milliseconds per batch", "relative to fastcifar"), rows),
        f"fastcifar's augmentation takes {_percent(figures['fraction_of_step'], 1)} of the time of a step.",
    )


def loaders_table(results: Results) -> str:
    """One row per data loader."""
    settings = results["settings"]
    rows = [
        (
            run["part"],
            f"{run['images_per_second']:,.0f}",
            f"{run['seconds']['median']:.3f}",
            f"{run['first_batch_seconds']['median']:.4f}",
            f"{run['first_epoch']['seconds']:.2f}",
        )
        for run in results["runs"]
    ]
    columns = ("loader", "images/s", "seconds per epoch", "seconds to the first batch", "seconds of the first epoch")
    heading = (
        f"{results['device']}, batches of {settings['batch_size']}, augmented and on the device, medians of "
        f"{settings['rounds']} epochs after the first:"
    )
    return _section(heading, markdown_table(columns, rows))


def scaling_table(results: Results) -> str:
    """One row per number of images, then one per batch size."""
    images = [run for run in results["runs"] if "images" in run]
    steps = [run for run in results["runs"] if "batch_size" in run]
    figures = results["figures"]
    return _section(
        f"{results['device']}:",
        markdown_table(
            ("images", "seconds per epoch of loading and augmentation", "anonymous memory"),
            [(f"{r['images']:,}", f"{r['seconds']:.3f}", f"{r['anonymous_bytes'] / 2**20:,.0f} MiB") for r in images],
        ),
        f"The time grows with the number of images to the power of {figures['exponent']:.3f}; single sizes are up to "
        f"{_percent(figures['largest_deviation'], 1)} off a straight line. From the fewest to the most images, the "
        f"memory changes by {100 * figures['memory_growth']:+.1f} %.",
        markdown_table(
            ("batch size", "seconds per step of `era`", "images/s", "peak memory"),
            [
                (
                    run["batch_size"],
                    f"{run['seconds']:.3g}",
                    f"{run['images_per_second']:,.0f}",
                    f"{run['peak_bytes'] / 2**30:.2f} GiB",
                )
                for run in steps
            ],
        ),
    )


def startup_table(results: Results) -> str:
    """One row per command."""
    rows = [(f"`{run['command']}`", f"{run['seconds']['median']:.2f}") for run in results["runs"]]
    return _section(f"{results['device']}:", markdown_table(("command", "median seconds"), rows))


def survival_table(reliability: Results, faults: Results, soak: Results, coverage: Results) -> str:
    """One row per kind of damage; below, the growth in a long run and the coverage of the tests."""
    rows = []
    for run in [*reliability["runs"], *faults["runs"]]:
        outcomes = (f"{name}: {number:,}" for name, number in run.items() if name not in ("part", "count", "faults"))
        rows.append((run["part"], f"{run.get('count', run.get('faults')):,}", "; ".join(outcomes)))
    reached = coverage["figures"]
    return _section(
        markdown_table(("test", "times", "outcomes"), rows),
        _soak_sentence(soak),
        f"The tests reach {_percent(reached['fraction'], 1)} of the package's lines and branches, not counting "
        f"{reached['gpu_statements']} statements that only a GPU reaches.",
    )


def _soak_sentence(results: Results) -> str:
    settings, figures, held = results["settings"], results["figures"], results["runs"][-1]
    named = {"anonymous_bytes": "anonymous memory", "threads": "threads", "open_files": "open files"}
    growth = ", ".join(f"{name} {round(100 * figures[key], 2) + 0.0:+.2f} %" for key, name in named.items())
    return (
        f"{figures['rounds']} trainings and evaluations ran in one process for {settings['minutes']:g} minutes. Growth "
        f"per hour, without the first {settings['settle']:g} minutes: {growth}. At the end the process has "
        f"{held['anonymous_bytes'] / 2**30:.2f} GiB of anonymous memory, {held['threads']} threads and "
        f"{held['open_files']} open files."
    )


def _together(table: Callable[..., str], *names: str) -> Callable[[], str]:
    """A function that makes one table of several result files, of those that exist."""
    return lambda: table(*filter(None, map(_load, names)))


def _each(table: Callable[[Results], str], *names: str, legend: str = "") -> Callable[[], str]:
    """A function that makes one table per result file, and a legend below all of them."""
    return lambda: _section(*(table(results) if (results := _load(name)) else NOT_MEASURED for name in names), legend)


TIMES_TO_90 = ("time-to-90-gpu", "time-to-90-cpu", "time-to-90-amx-cpu")
TABLES: dict[str, Callable[[], str]] = {
    "headline": _together(headline_table, *TIMES_TO_90),
    "runs": _together(runs_table, "era-gpu", "era-cpu", "quick-cpu"),
    "course": _together(course_table, "course-gpu", "dilated-cnn-gpu", "course-cpu", "dilated-cnn-cpu"),
    "step_parts": _each(step_parts_table, "throughput-cpu", "throughput-amx-cpu"),
    "time_to_target": _each(time_to_target_table, *TIMES_TO_90, legend=TIME_TO_TARGET_LEGEND),
    "ablation_speedrun": _each(lambda results: ablation_table(results, "speedrun"), "ablation-speedrun-cpu"),
    "ablation_era_fast": _each(lambda results: ablation_table(results, "era-fast"), "ablation-era-fast-cpu"),
    "frontier": _each(time_to_target_table, "frontier-cpu"),
    "throughput": _each(throughput_table, "pace-cpu"),
    "augmentation": _each(augmentation_table, "augmentation-cpu"),
    "loaders": _each(loaders_table, "loaders-cpu"),
    "scaling": _each(scaling_table, "scaling-cpu"),
    "data": _each(data_table, "data-cpu"),
    "startup": _each(startup_table, "startup-cpu"),
    "max_lr": _each(max_lr_table, "max-lr-cpu"),
    "survival": _together(survival_table, "reliability-cpu", "faults-cpu", "soak-cpu", "coverage-cpu"),
}
"""The tables by the name in their comments."""


def filled(text: str) -> str:
    """`text` with each table between its comments generated again."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end {match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", fill, text, flags=re.DOTALL)


def find_outdated() -> list[str]:
    """Problems of the committed result files, and of the two files that have their tables."""
    problems = [problem for path in sorted(RESULTS.glob("*.json")) for problem in find_problems(path)]
    if problems:
        return problems
    for path in FILES:
        text = path.read_text()
        try:
            if filled(text) != text:
                problems.append(f"{path}: its tables are not up to date; run `python -m benchmarks.tables --write`")
        except KeyError as error:
            problems.append(f"{path}: a table cannot be generated: a result file or TABLES has no {error}")
    return problems


def main(*, write: bool = False, check: bool = False) -> None:
    """Print the tables, write them to the two files, or check that these are up to date.

    Args:
        write: write the tables to README.md and benchmarks/README.md.
        check: exit with 1 and one line per problem if the tables are not up to date or a result file lacks a field.
    """
    if check:
        problems = find_outdated()
        print("\n".join(problems), file=sys.stderr, end="\n" * bool(problems))
        sys.exit(bool(problems))
    if write:
        for path in FILES:
            path.write_text(filled(path.read_text()))
    else:
        print("\n\n".join(table() for table in TABLES.values()))


def _load(name: str) -> Results:
    return read_results(RESULTS / f"{name}.json")


def _section(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _device(results: Results) -> str:
    return f"{results['device']}, {results['precision'].split(' ')[0]}"


def _percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _deviation(value: float, digits: int, several: bool) -> str:
    return f" ± {value:.{digits}f}" if several else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
