"""The tables of README.md and benchmarks/README.md, made from the committed results.

    python -m benchmarks.tables           # print them
    python -m benchmarks.tables --write   # put them where the two files have them

Each stands between two comments, <!-- NAME --> and <!-- end NAME -->.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from benchmarks.ablation import without
from benchmarks.common import RESULTS
from benchmarks.work import ERA_EPOCH

ROOT = Path(__file__).parent.parent
NOT_YET = "Not measured yet."
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")


def runs_table(*names: str) -> str:
    """A row a run: recipe, device, epochs, accuracy, times."""
    rows = ["| recipe | device | epochs | test accuracy | training | last evaluation | peak memory |", "|" + "---|" * 7]
    for name in names:
        results = _load(name)
        for run in results["runs"] if results else []:
            rows.append(
                f"| `{run['recipe']}` | {results['device']}, {results['precision'].split(' ')[0]} | {run['epochs']} "
                f"| {run['test_accuracy']:.2%} | {_duration(run['train_seconds'])} | {_duration(run['eval_seconds'])} "
                f"| {run['peak_memory_bytes'] / 2**30:.2f} GiB |"
            )
    return "\n".join(rows)


def throughput_table(name: str) -> str:
    """A row a part of a training step, and the two ratios below, for each batch size."""
    results = _load(name)
    settings = results["settings"]
    rows = [
        f"{results['device']}, {results['precision']}, medians of {settings['rounds']} blocks of {settings['steps']} "
        "steps:",
        "",
        "| batch | part | seconds | images/s | GFLOP/s | of the ceiling |",
        "|" + "---|" * 6,
    ]
    for run in results["runs"]:
        batch, part = run["batch_size"], run["part"]
        cells = (
            _cell(results["figures"][str(batch)][key], part, form)
            for key, form in (("images_per_second", ",.0f"), ("gflop_per_second", ",.0f"), ("share_of_ceiling", ".0%"))
        )
        rows.append(f"| {batch} | {PARTS.get(part, part)} | {run['seconds']['median']:.4g} | {' | '.join(cells)} |")
    for batch, figures in results["figures"].items():
        rows += [
            "",
            f"Batch {batch}: whole step by model step {figures['whole_by_model']:.3f}; the model step is "
            f"{figures['plain_by_model']:.2f} times faster than in float32 without channels-last.",
        ]
    return "\n".join(rows)


def max_lr_table(name: str) -> str:
    """A row a multiple of the range test's rate."""
    results = _load(name)
    settings, suggested = results["settings"], results["suggestion"]["max_lr"]
    devices = "; ".join(dict.fromkeys(run["device"] for run in results["runs"]))
    rows = [
        f"{devices}; recipe `{settings['recipe']}`, {settings['epochs']} epochs, measured on "
        f"{settings['val_fraction']:.0%} of the training set. The range test suggests {suggested:.3g}:",
        "",
        "| LRMAX | by the suggestion | validation accuracy, seed by seed | mean |",
        "|---|---|---|---|",
    ]
    for multiple, mean in sorted(results["figures"]["mean_accuracy"].items(), key=lambda item: float(item[0])):
        runs = [run for run in results["runs"] if run["multiple"] == float(multiple)]
        each = ", ".join(f"{run['test_accuracy']:.2%}" for run in runs)
        rows.append(f"| {float(multiple) * suggested:.3g} | {multiple} × | {each} | {mean:.2%} |")
    below = 100 * results["figures"]["below_best"]
    seeds = len({run["seed"] for run in results["runs"]})
    run = f"{seeds} of {settings['seeds']} seeds were run"
    return "\n".join([*rows, "", f"The suggestion is {below:.2f} points below the best of them; {run}."])


def time_to_target_table(name: str) -> str:
    """A row a recipe or a peer: what a recipe computes, runs, accuracies, time, and its median by the first row's."""
    results = _load(name)
    if not results:
        return NOT_YET
    first = next(iter(results["figures"]))
    heading = (
        "| training | epochs' worth | runs | accuracy | without TTA | runs at 90 % | seconds | median | by the first |"
    )
    rows = [f"{results['device']}:", "", heading, "|" + "---|" * 9]
    fastest = results["figures"][first]["seconds"]["median"]
    digits = 1 if fastest > 10 else 3
    for training, values in results["figures"].items():
        accuracy, plain, seconds = values["accuracy"], values["accuracy_without_tta"], values["seconds"]
        worth = values.get("epochs_worth")
        cells = (
            f"`{training}`",
            "–" if worth is None else f"{worth:.2f}",
            str(values["runs"]),
            f"{accuracy['mean']:.2%}{_spread(values, 100 * accuracy['stdev'], 2)}",
            f"{plain['mean']:.2%}{_spread(values, 100 * plain['stdev'], 2)}",
            f"{values['share_reaching_target']:.0%}",
            f"{seconds['mean']:.{digits}f}{_spread(values, seconds['stdev'], digits)}",
            f"{seconds['median']:.{digits}f}",
            f"{seconds['median'] / fastest:.2f} ×",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, *(["", results["note"]] if "note" in results else [])])


def headline_table(*names: str) -> str:
    """A row a device: the first recipe's accuracy and time, and its time by that of the fastest peer whose mean reaches
    the target, the median over the seeds that both have."""
    rows = ["| device | runs | mean accuracy | median seconds | by the peer's |", "|" + "---|" * 5]
    for results in filter(None, map(_load, names)):
        figures = results["figures"]
        first, own = next(iter(figures.items()))
        seconds = {
            name: {run["seed"]: run["seconds"] for run in results["runs"] if run["name"] == name} for name in figures
        }
        peers = [
            name
            for name in figures.keys() & results["peers"].keys()
            if figures[name]["mean_reaches_target"] and seconds[name].keys() & seconds[first].keys()
        ]
        beside = "–"
        if peers:
            peer = min(peers, key=lambda name: figures[name]["seconds"]["median"])
            both = seconds[first].keys() & seconds[peer].keys()
            ratio = statistics.median(seconds[first][seed] / seconds[peer][seed] for seed in both)
            beside = f"{ratio:.2f} × {peer}"
        rows.append(
            f"| {results['device']} | {own['runs']} | {own['accuracy']['mean']:.2%} "
            f"| {own['seconds']['median']:.3g} | {beside} |"
        )
    return "\n".join(rows)


def throughput_table(name: str) -> str:
    """A row a training: what it gets through in a second of its training."""
    results = _load(name)
    if not results:
        return NOT_YET
    rows = [f"{results['device']}, medians:", "", "| training | runs | images/s | GFLOP/s |", "|---|---|---|---|"]
    for training in results["figures"]:
        runs = [run for run in results["runs"] if run["name"] == training]
        images = statistics.median(_images(run) / run["train_seconds"] for run in runs)
        flops = statistics.median(2 * ERA_EPOCH * run["epochs_worth"] / run["train_seconds"] for run in runs)
        rows.append(f"| `{training}` | {len(runs)} | {images:,.0f} | {flops / 1e9:,.0f} |")
    return "\n".join(rows)


def _images(run: dict[str, Any]) -> float:
    """How many images the run trained on, those seen again counted again."""
    return sum(epoch["images_per_second"] * epoch["train_seconds"] for epoch in run["history"])


def _spread(values: dict[str, Any], deviation: float, digits: int) -> str:
    return f" ± {deviation:.{digits}f}" if values["runs"] > 1 else ""


def ablation_table(name: str, recipe: str) -> str:
    """A row a part: accuracy and time of the recipe without it, against the whole recipe's from the same seeds."""
    results = _load(name)
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for run in results.get("runs", []):
        runs.setdefault(run["name"], {})[run["seed"]] = run
    if recipe not in runs:
        return NOT_YET
    whole = runs[recipe]
    lacking = {part: runs.get(each, {}) for each, part in without(recipe).items()}
    plain = {seed: _without_tta(run) for seed, run in whole.items() if run["tta_accuracy"] is not None}
    rows = [
        f"{results['device']}. The differences are between runs from one seed: their mean ± its standard error, in "
        "points.",
        "",
        f"| `{recipe}` without | seeds | accuracy | difference | time |",
        "|" + "---|" * 5,
        f"| – | {len(whole)} | {statistics.fmean(run['quoted_accuracy'] for run in whole.values()):.2%} | – | 1 × |",
    ]
    for part, others in {"test-time augmentation": plain, **lacking}.items():
        pairs = [(run, whole[seed]) for seed, run in others.items() if seed in whole]
        if pairs:
            accuracy = statistics.fmean(run["quoted_accuracy"] for run, _ in pairs)
            differences = [100 * (run["quoted_accuracy"] - base["quoted_accuracy"]) for run, base in pairs]
            error = f"{statistics.stdev(differences) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else "?"
            time = statistics.median(run["seconds"] / base["seconds"] for run, base in pairs)
            rows.append(
                f"| {part} | {len(pairs)} | {accuracy:.2%} | {statistics.fmean(differences):+.2f} ± {error} "
                f"| {time:.2f} × |"
            )
    return "\n".join(rows)


def _without_tta(run: dict[str, Any]) -> dict[str, float]:
    """The accuracy and time that a run had without its test-time augmentation."""
    return {"quoted_accuracy": run["test_accuracy"], "seconds": run["train_seconds"] + run["eval_seconds"]}


def course_table(*names: str) -> str:
    """A row a course recipe and device: its epochs and accuracies beside the course's own figure."""
    rows = ["| recipe | device | epochs | test accuracy | best | the course, 24 epochs |", "|" + "---|" * 6]
    for name in names:
        results = _load(name)
        for run in results.get("runs", []):
            rows.append(
                f"| `{run['recipe']}` | {results['device']}, {results['precision'].split(' ')[0]} | {run['epochs']} "
                f"| {run['test_accuracy']:.2%} | {run['best_accuracy']:.2%} | {COURSE[run['recipe']]} |"
            )
    return "\n".join(rows)


COURSE = {
    "course-a": "91.99 %",
    "course-b": "91.51 %",
    "course-c": "88.22 %",
    "course-d": "target 90 %",
    "course-e": "88.9, 88.94, 89.17 %",
    "dilated-cnn": "target 85 %",
}
"""The best test accuracies that the course solutions' pages name."""


def data_table(name: str) -> str:
    """A row a piece of work on the data."""
    results = _load(name)
    rows = [f"| {run['part']} | {run['seconds']['median']:.3f} |" for run in results["runs"]]
    return "\n".join([f"{results['device']}:", "", "| work | seconds (median) |", "|---|---|", *rows])


def augmentation_table(name: str) -> str:
    """A row a way of augmenting."""
    results = _load(name)
    if not results:
        return NOT_YET
    figures, settings = results["figures"], results["settings"]
    rows = [
        f"{results['device']}, batches of {settings['batch_size']}, medians of {settings['rounds']}:",
        "",
        "| augmentation | milliseconds | by ours |",
        "|---|---|---|",
    ]
    for run in results["runs"]:
        ratio = figures["by_ours"].get(run["part"])
        rows.append(
            f"| {run['part']} | {1e3 * run['seconds']['median']:.4g} | {'' if ratio is None else f'{ratio:.1f}'} |"
        )
    return "\n".join([*rows, "", f"The augmentation's share of the step is {figures['share_of_step']:.1%}."])


def loaders_table(name: str) -> str:
    """A row a way of loading."""
    results = _load(name)
    if not results:
        return NOT_YET
    rows = [
        f"{results['device']}, batches of {results['settings']['batch_size']}, augmented and on the device, medians of "
        f"{results['settings']['rounds']} epochs:",
        "",
        "| loader | images/s | an epoch | its first batch | the very first epoch |",
        "|" + "---|" * 5,
    ]
    for run in results["runs"]:
        rows.append(
            f"| {run['part']} | {run['images_per_second']:,.0f} | {run['seconds']['median']:.3f} s "
            f"| {1e3 * run['first_batch_seconds']['median']:.1f} ms | {run['first_epoch']['seconds']:.2f} s |"
        )
    return "\n".join(rows)


def scaling_table(name: str) -> str:
    """A row a number of images, then one a batch size."""
    results = _load(name)
    if not results:
        return NOT_YET
    images = [run for run in results["runs"] if "images" in run]
    steps = [run for run in results["runs"] if "batch_size" in run]
    figures = results["figures"]
    rows = [f"{results['device']}:", "", "| images | an epoch of loading and augmentation | anonymous memory |"]
    rows += ["|---|---|---|"]
    rows += [f"| {r['images']:,} | {r['seconds']:.3f} s | {r['anonymous_bytes'] / 2**20:,.0f} MiB |" for r in images]
    rows += [
        "",
        f"The time grows as the number of images to the power of {figures['exponent']:.3f}, with single sizes up to "
        f"{figures['largest_deviation']:.1%} off a straight line; memory by {figures['memory_growth']:+.1%} from the "
        "fewest images to the most.",
        "",
        "| batch | a step of `era` | images/s | peak memory |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {r['batch_size']} | {r['seconds']:.3g} s | {r['images_per_second']:,.0f} "
        f"| {r['peak_bytes'] / 2**30:.2f} GiB |"
        for r in steps
    ]
    return "\n".join(rows)


def startup_table(name: str) -> str:
    """A row a command."""
    results = _load(name)
    rows = [f"| `{run['command']}` | {run['seconds']['median']:.2f} |" for run in results["runs"]]
    heading = ["| command | seconds until it works (median) |", "|---|---|"]
    return "\n".join([f"{results['device']}:", "", *heading, *rows])


PARTS = {
    "matrix product": "bfloat16 matrix product (the ceiling)",
    "plain model step": "model step, float32, contiguous",
}


def survival_table(reliability: str, faults: str, soak: str, coverage: str) -> str:
    """A row a kind of damage: how often, what came of it; below, what a long run keeps and what the tests reach."""
    lines = ["| what was done | times | what came of it |", "|---|---|---|"]
    for run in [*_load(reliability).get("runs", []), *_load(faults).get("runs", [])]:
        times = run.get("count", run.get("faults"))
        outcomes = (f"{name}: {number:,}" for name, number in run.items() if name not in ("part", "count", "faults"))
        lines.append(f"| {run['part']} | {times:,} | {'; '.join(outcomes)} |")
    if results := _load(soak):
        lines += ["", _soak_sentence(results)]
    if results := _load(coverage):
        reached = results["figures"]
        lines += [
            "",
            f"The tests reach {reached['share']:.1%} of the package's lines and branches; {reached['gpu_statements']} "
            "statements that only a GPU reaches are not counted in it.",
        ]
    return "\n".join(lines)


def _soak_sentence(results: dict[str, Any]) -> str:
    settings, figures, held = results["settings"], results["figures"], results["runs"][-1]
    named = {"anonymous_bytes": "anonymous memory", "threads": "threads", "open_files": "open files"}
    grew = ", ".join(f"{name} {round(100 * figures[key], 2) + 0.0:+.2f} %" for key, name in named.items())
    memory = held["anonymous_bytes"] / 2**30
    return (
        f"{figures['rounds']} trainings and evaluations in one process over {settings['minutes']:g} minutes, the first "
        f"{settings['settle']:g} of which are left out: growth an hour {grew}; at the end it holds {memory:.2f} GiB, "
        f"{held['threads']} threads, {held['open_files']} open files."
    )


TIMES_TO_90 = ("time-to-90-gpu", "time-to-90-cpu", "time-to-90-amx-cpu")
TABLES: dict[str, Callable[[], str]] = {
    "headline": lambda: headline_table(*TIMES_TO_90),
    "runs": lambda: runs_table("era-gpu", "era-cpu", "quick-cpu"),
    "course": lambda: course_table("course-gpu", "dilated-cnn-gpu", "course-cpu", "dilated-cnn-cpu"),
    "throughput": lambda: "\n\n".join(map(throughput_table, ("throughput-cpu", "throughput-amx-cpu"))),
    "soonest": lambda: "\n\n".join(map(time_to_target_table, TIMES_TO_90)),
    "ablation_speedrun": lambda: ablation_table("ablation-speedrun-cpu", "speedrun"),
    "ablation_era_fast": lambda: ablation_table("ablation-era-fast-cpu", "era-fast"),
    "frontier": lambda: time_to_target_table("frontier-cpu"),
    "pace": lambda: throughput_table("pace-cpu"),
    "augmentation": lambda: augmentation_table("augmentation-cpu"),
    "loaders": lambda: loaders_table("loaders-cpu"),
    "scaling": lambda: scaling_table("scaling-cpu"),
    "data": lambda: data_table("data-cpu"),
    "startup": lambda: startup_table("startup-cpu"),
    "rates": lambda: max_lr_table("max-lr-cpu"),
    "survival": lambda: survival_table("reliability-cpu", "faults-cpu", "soak-cpu", "coverage-cpu"),
}


def filled(text: str) -> str:
    """`text` with each table between its comments made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n\n{TABLES[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", fill, text, flags=re.DOTALL)


def main(*, write: bool = False) -> None:
    """Print the tables, or put them into the two files.

    Args:
        write: put them into README.md and benchmarks/README.md.
    """
    if write:
        for path in FILES:
            path.write_text(filled(path.read_text()))
    else:
        print("\n\n".join(table() for table in TABLES.values()))


def _load(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _cell(values: dict[str, float], name: str, form: str) -> str:
    return format(values[name], form) if name in values else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
