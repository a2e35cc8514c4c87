"""The tables of README.md and benchmarks/README.md, generated from the committed results.

    python -m benchmarks.tables            # print them
    python -m benchmarks.tables --write    # write them to the two files
    python -m benchmarks.tables --check    # fail if the files are not up to date, or if a result file lacks a field

Each table stands between two comments, <!-- NAME --> and <!-- end NAME -->. A row whose run had other settings than
today's recipe is marked with †.
"""

from __future__ import annotations

import functools
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import result_files
from benchmarks.ablation import ablations
from benchmarks.common import RESULTS, run_command
from benchmarks.result_files import changed_settings, changes_of, read_results
from benchmarks.work import ERA_EPOCH
from fastcifar.errors import ConfigError, DataError, FastCifarError

ROOT = Path(__file__).parent.parent
NOT_MEASURED = "Not measured yet."
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")

Results = dict[str, Any]
"""A result file, from `read_results`."""


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table, from format strings by column heading and the values that rows put into them."""
    cells = ([form.format(**row) for form in columns.values()] for row in rows)
    lines = [f"| {' | '.join(line)} |" for line in (columns, *cells)]
    return _percent_signs("\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]))


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


def runs_table(*files: Results, columns: Mapping[str, str] | None = None) -> str:
    """One row per run: recipe, device, epochs, accuracy, times."""
    marks = Marks()
    rows = [
        {
            **run,
            "label": marks.label(f"`{run['recipe']}`", [run]),
            "device": f"{results['device']}, {results['precision'].split(' ')[0]}",
            "training": _duration(run["train_seconds"]),
            "evaluation": _duration(run["eval_seconds"]),
            "memory": run["peak_memory_bytes"] / 2**30,
            "course": COURSE.get(run["recipe"]),
        }
        for results in files
        for run in results["runs"]
    ]
    shared = {"recipe": "{label}", "device": "{device}", "epochs": "{epochs}", "test accuracy": "{test_accuracy:.2%}"}
    return _section(table({**shared, **(columns or RUN_COLUMNS)}, rows), marks.footnote())


RUN_COLUMNS = {
    "training time": "{training}", "last evaluation": "{evaluation}", "peak memory": "{memory:.2f} GiB",
}  # fmt: skip
course_table = functools.partial(
    runs_table, columns={"best": "{best_accuracy:.2%}", "the course, 24 epochs": "{course}"}
)
COURSE = {
    "course-a": "91.99 %",
    "course-b": "91.51 %",
    "course-c": "88.22 %",
    "course-d": "target 90 %",
    "course-e": "88.9, 88.94, 89.17 %",
    "dilated-cnn": "target 85 %",
}
"""The best test accuracies that the course solutions' pages name."""


def step_parts_table(results: Results) -> str:
    """One row per part of a training step and batch size, and ratios of parts."""
    settings, marks = results["settings"], Marks()
    recipe = marks.label(f"`{results['config']['base_recipe']}`", [results])
    keys = {"images_per_second": ",.0f", "gflop_per_second": ",.0f", "fraction_of_ceiling": ".0%"}
    rows = []
    for run in results["runs"]:
        figures, part = results["figures"][str(run["batch_size"])], run["part"]
        cells = {key: format(figures[key][part], form) if part in figures[key] else "" for key, form in keys.items()}
        rows.append({**run, **cells, "part": PARTS.get(part, part)})
    columns = {
        "batch size": "{batch_size}", "part": "{part}", "median seconds": "{seconds[median]:.4g}",
        "images/s": "{images_per_second}", "GFLOP/s": "{gflop_per_second}",
        "relative to the ceiling": "{fraction_of_ceiling}",
    }  # fmt: skip
    ratios = (
        f"Batch size {batch_size}: the whole step takes {figures['whole_relative_to_model']:.3f} times as long as the "
        f"model step, which takes {figures['plain_relative_to_model']:.2f} times as long in float32 and contiguous "
        "memory format."
        for batch_size, figures in results["figures"].items()
    )
    heading = f"{results['device']}, {results['precision']}, {recipe}; "
    heading += f"medians of {settings['rounds']} blocks of {settings['steps']} steps:"
    return _section(heading, table(columns, rows), *ratios, marks.footnote())


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
        each = ", ".join(f"{r['test_accuracy']:.2%}" for r in results["runs"] if r["multiple"] == float(multiple))
        rows.append({"lr": float(multiple) * suggested, "multiple": multiple, "each": each, "mean": mean})
    columns = {
        "max_lr": "{lr:.3g}", "relative to the suggestion": "{multiple} ×",
        "validation accuracy of each seed": "{each}", "mean": "{mean:.2%}",
    }  # fmt: skip
    return _section(
        f"{devices}; recipe {recipe}, {settings['epochs']} epochs, evaluated on {100 * settings['val_fraction']:g} % "
        f"of the training set. The range test suggests {suggested:.3g}:",
        table(columns, rows),
        f"The suggestion is {100 * results['figures']['below_best']:.2f} points below the best mean; "
        f"{len({run['seed'] for run in results['runs']})} of {settings['seeds']} seeds were run.",
        marks.footnote(),
    )


def time_to_target_table(results: Results) -> str:
    """One row per recipe or peer: compute, runs, accuracies, times, and the median relative to the first row."""
    marks, rows = Marks(), []
    first = next(iter(results["figures"].values()))["seconds"]["median"]
    digits = 1 if first > 10 else 3
    for name, values in results["figures"].items():
        runs = [run for run in results["runs"] if run["name"] == name]
        equivalents = values.get("era_epoch_equivalents")
        row = {
            "label": marks.label(f"`{name}`", runs),
            "equivalents": "–" if equivalents is None else f"{equivalents:.2f}",
            "relative": values["seconds"]["median"] / first,
        }
        for key, scale, form in (
            ("accuracy", 100, ".2%"), ("accuracy_without_tta", 100, ".2%"), ("seconds", 1, f".{digits}f")
        ):  # fmt: skip
            deviation = f" ± {scale * values[key]['stdev']:{form.rstrip('%f')}f}" if values["runs"] > 1 else ""
            row[f"mean_{key}"] = f"{values[key]['mean']:{form}}{deviation}"
        rows.append({**values, **row})
    columns = {
        "training": "{label}", "era-epoch equivalents": "{equivalents}", "runs": "{runs}",
        "accuracy": "{mean_accuracy}", "accuracy without TTA": "{mean_accuracy_without_tta}",
        f"runs at {100 * results['settings']['target_accuracy']:g} % or more": "{fraction_reaching_target:.0%}",
        "seconds": "{mean_seconds}", "median seconds": f"{{seconds[median]:.{digits}f}}",
        "relative to the first row": "{relative:.2f} ×",
    }  # fmt: skip
    return _section(f"{results['device']}:", table(columns, rows), marks.footnote())


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
        label = marks.label(results["device"], [run for run in results["runs"] if run["name"] == first])
        rows.append({**figures, "device": label, "relative": _relative_to_fastest_peer(results, first)})
    columns = {
        "device": "{device}", "runs": "{runs}", "mean accuracy": "{accuracy[mean]:.2%}",
        "median seconds": "{seconds[median]:.3g}", "relative to the fastest peer": "{relative}",
    }  # fmt: skip
    return _section(table(columns, rows), marks.footnote())


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
        label = marks.label(f"`{name}`", runs)
        rows.append({"label": label, "runs": len(runs), "images": images, "gflop": flops / 1e9})
    columns = {"training": "{label}", "runs": "{runs}", "images/s": "{images:,.0f}", "GFLOP/s": "{gflop:,.0f}"}
    return _section(f"{results['device']}, medians:", table(columns, rows), marks.footnote())


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
    rows = []
    for part, others in {"(the whole recipe)": whole, "test-time augmentation": without_tta, **parts}.items():
        pairs = [(run, whole[seed]) for seed, run in others.items() if seed in whole]
        if pairs:
            differences = [100 * (run["final_accuracy"] - base["final_accuracy"]) for run, base in pairs]
            error = f"{statistics.stdev(differences) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else "?"
            mean = f"{statistics.fmean(differences):+.2f} ± {error}"
            row = {"label": marks.label(part, [run for run, _ in pairs]), "seeds": len(pairs)}
            row["accuracy"] = statistics.fmean(run["final_accuracy"] for run, _ in pairs)
            row["difference"] = "–" if others is whole else mean
            row["time"] = statistics.median(run["seconds"] / base["seconds"] for run, base in pairs)
            rows.append(row)
    columns = {
        f"`{recipe}` without": "{label}", "seeds": "{seeds}", "accuracy": "{accuracy:.2%}",
        "difference in points": "{difference}", "time relative to the whole recipe": "{time:.2f} ×",
    }  # fmt: skip
    heading = (
        f"{results['device']}. The difference is the mean over pairs of runs from equal seeds, ± its standard error."
    )
    return _section(heading, table(columns, rows), marks.footnote())


def augmentation_table(results: Results) -> str:
    """One row per implementation of the augmentation."""
    figures, settings = results["figures"], results["settings"]
    relative = {part: f"{ratio:.1f} ×" for part, ratio in figures["relative_to_fastcifar"].items()}
    rows = [
        {**run, "milliseconds": 1e3 * run["seconds"]["median"], "relative": relative.get(run["part"], "")}
        for run in results["runs"]
    ]
    columns = {
        "augmentation": "{part}", "milliseconds per batch": "{milliseconds:.4g}", "relative to fastcifar": "{relative}",
    }  # fmt: skip
    return _section(
        f"{results['device']}, batches of {settings['batch_size']}, medians of {settings['rounds']}:",
        table(columns, rows),
        f"fastcifar's augmentation takes {100 * figures['fraction_of_step']:.1f} % of the time of a step.",
    )


def loaders_table(results: Results) -> str:
    """One row per data loader."""
    settings = results["settings"]
    columns = {
        "loader": "{part}", "images/s": "{images_per_second:,.0f}", "seconds per epoch": "{seconds[median]:.3f}",
        "seconds to the first batch": "{first_batch_seconds[median]:.4f}",
        "seconds of the first epoch": "{first_epoch[seconds]:.2f}",
    }  # fmt: skip
    heading = f"{results['device']}, batches of {settings['batch_size']}, augmented and on the device, "
    heading += f"medians of {settings['rounds']} epochs after the first:"
    return _section(heading, table(columns, results["runs"]))


def scaling_table(results: Results) -> str:
    """One row per number of images, then one per batch size."""
    images = [{**r, "mib": r["anonymous_bytes"] / 2**20} for r in results["runs"] if "images" in r]
    steps = [{**r, "gib": r["peak_bytes"] / 2**30} for r in results["runs"] if "batch_size" in r]
    figures = results["figures"]
    images_columns = {
        "images": "{images:,}", "seconds per epoch of loading and augmentation": "{seconds:.3f}",
        "anonymous memory": "{mib:,.0f} MiB",
    }  # fmt: skip
    steps_columns = {
        "batch size": "{batch_size}", "seconds per step of `era`": "{seconds:.3g}",
        "images/s": "{images_per_second:,.0f}", "peak memory": "{gib:.2f} GiB",
    }  # fmt: skip
    return _section(
        f"{results['device']}:",
        table(images_columns, images),
        f"The time grows with the number of images to the power of {figures['exponent']:.3f}; single sizes are up to "
        f"{100 * figures['largest_deviation']:.1f} % off a straight line. From the fewest to the most images, the "
        f"memory changes by {100 * figures['memory_growth']:+.1f} %.",
        table(steps_columns, steps),
    )


def seconds_table(results: Results, columns: Mapping[str, str]) -> str:
    """One row per command or piece of work."""
    return _section(f"{results['device']}:", table(columns, results["runs"]))


STARTUP_COLUMNS = {"command": "`{command}`", "median seconds": "{seconds[median]:.2f}"}
DATA_COLUMNS = {"work": "{part}", "median seconds": "{seconds[median]:.3f}"}


def survival_table(reliability: Results, faults: Results, soak: Results, coverage: Results) -> str:
    """One row per kind of damage; below, the growth in a long run and the coverage of the tests."""
    rows = []
    for run in [*reliability["runs"], *faults["runs"]]:
        outcomes = (f"{name}: {number:,}" for name, number in run.items() if name not in ("part", "count", "faults"))
        rows.append({**run, "times": run.get("count", run.get("faults")), "outcomes": "; ".join(outcomes)})
    reached = coverage["figures"]
    return _section(
        table({"test": "{part}", "times": "{times:,}", "outcomes": "{outcomes}"}, rows),
        _soak_sentence(soak),
        f"The tests reach {100 * reached['fraction']:.1f} % of the package's lines and branches, not counting "
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


def table_of_files(make: Callable[..., str], *names: str) -> Callable[[], str]:
    """A function that makes one table of the result files that exist."""
    return lambda: make(*filter(None, map(_load, names)))


def table_per_file(make: Callable[[Results], str], *names: str, legend: str = "") -> Callable[[], str]:
    """A function that makes one table per result file, and a legend below all of them."""
    return lambda: _section(*(make(results) if (results := _load(name)) else NOT_MEASURED for name in names), legend)


TIMES_TO_90 = ("time-to-90-gpu", "time-to-90-cpu", "time-to-90-amx-cpu")
TABLES: dict[str, Callable[[], str]] = {
    "headline": table_of_files(headline_table, *TIMES_TO_90),
    "runs": table_of_files(runs_table, "era-gpu", "era-cpu", "quick-cpu"),
    "course": table_of_files(course_table, "course-gpu", "dilated-cnn-gpu", "course-cpu", "dilated-cnn-cpu"),
    "step_parts": table_per_file(step_parts_table, "throughput-cpu", "throughput-amx-cpu"),
    "time_to_target": table_per_file(time_to_target_table, *TIMES_TO_90, legend=TIME_TO_TARGET_LEGEND),
    "ablation_speedrun": table_per_file(functools.partial(ablation_table, recipe="speedrun"), "ablation-speedrun-cpu"),
    "ablation_era_fast": table_per_file(functools.partial(ablation_table, recipe="era-fast"), "ablation-era-fast-cpu"),
    "frontier": table_per_file(time_to_target_table, "frontier-cpu"),
    "throughput": table_per_file(throughput_table, "pace-cpu"),
    "augmentation": table_per_file(augmentation_table, "augmentation-cpu"),
    "loaders": table_per_file(loaders_table, "loaders-cpu"),
    "scaling": table_per_file(scaling_table, "scaling-cpu"),
    "data": table_per_file(functools.partial(seconds_table, columns=DATA_COLUMNS), "data-cpu"),
    "startup": table_per_file(functools.partial(seconds_table, columns=STARTUP_COLUMNS), "startup-cpu"),
    "max_lr": table_per_file(max_lr_table, "max-lr-cpu"),
    "survival": table_of_files(survival_table, "reliability-cpu", "faults-cpu", "soak-cpu", "coverage-cpu"),
}
"""The tables by the name in their comments."""


def filled(text: str) -> str:
    """`text` with each table between its comments generated again.

    Raises:
        ConfigError: there is no such table.
        DataError: a result file lacks a field.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ConfigError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
        try:
            return f"<!-- {name} -->\n\n{TABLES[name]()}\n\n<!-- end {name} -->"
        except KeyError as error:
            raise DataError(f"table {name!r}: a result file has no field {error}") from error

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", fill, text, flags=re.DOTALL)


def find_problems() -> list[str]:
    """Problems of the committed result files, and of the two files with their tables."""
    problems = [problem for path in sorted(RESULTS.glob("*.json")) for problem in result_files.find_problems(path)]
    for path in FILES:
        text = path.read_text()
        try:
            if filled(text) != text:
                problems.append(f"{path}: the tables are not up to date; run `python -m benchmarks.tables --write`")
        except FastCifarError as error:
            problems.append(f"{path}: {error}")
    return problems


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Print the tables, write them to README.md and benchmarks/README.md, or check these files."""

    write: bool = False
    """Write the tables to the two files."""
    check: bool = False
    """Print problems and exit with 1 if the tables are not up to date or a committed result file lacks a field."""


def main(settings: Tables) -> None:
    if settings.check:
        if problems := find_problems():
            raise DataError("\n".join(problems))
    elif settings.write:
        for path in FILES:
            path.write_text(filled(path.read_text()))
    else:
        print("\n\n".join(table() for table in TABLES.values()))


def _load(name: str) -> Results:
    return read_results(RESULTS / f"{name}.json")


def _section(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _percent_signs(text: str) -> str:
    """`text` with a space before each percent sign."""
    return re.sub(r"(?<=\d)%", " %", text)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    run_command(main, Tables, __doc__)
