"""The rows of the tables, computed from result files, and the sentences below the tables."""

from __future__ import annotations

import re
import statistics
import tomllib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.convolutions import ALGORITHMS
from benchmarks.results import FOLDER, Results
from benchmarks.step import CEILING, FASTCIFAR, STEP
from benchmarks.time_to_90 import ABLATIONS, ERA_EPOCH

Row = dict[str, Any]
"""Values for the cells; under "of" the runs that a row summarises, to mark it where their settings differ."""
PRICES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER.parent / "prices.toml").read_text())
"""Dollars per hour by device, with the source."""
COURSE = {
    "course-a": "91.99 %",
    "course-b": "91.51 %",
    "course-c": "88.22 %",
    "course-d": "target 90 %",
    "course-e": "88.9, 88.94, 89.17 %",
    "dilated-cnn": "target 85 %",
}
"""The best test accuracies that the course solutions' pages name."""


def runs(results: Results) -> Iterator[Row]:
    """One row per run: recipe, device, times, and the accuracy with the recipe's TTA, which the last time contains."""
    device = f"{name_device(results)}, {_precision(results)}"
    for run in results.runs:
        evaluation = run["seconds"] - run["train_seconds"] if "seconds" in run else run["eval_seconds"]
        times = {"training": _duration(run["train_seconds"]), "evaluation": _duration(evaluation)}
        values = {"memory": run["peak_memory_bytes"] / 2**30, "course": COURSE.get(run["recipe"])}
        accuracy = run.get("final_accuracy", run["test_accuracy"])
        yield {**run, "of": [run], "device": device, "test_accuracy": accuracy, **times, **values}


def all_epochs(results: Results) -> Iterator[Row]:
    """One row for the runs of a recipe: mean accuracy, the first epoch at 90 %, median times, largest memory."""
    at_90 = [[epoch["epoch"] for epoch in run["history"] if epoch["test_accuracy"] >= 0.9] for run in results.runs]
    firsts = sorted({epochs[0] for epochs in at_90 if epochs})
    evaluations = [sum(epoch["eval_seconds"] for epoch in run["history"]) for run in results.runs]
    yield {
        "device": name_device(results),
        "of": results.runs,
        "runs": len(results.runs),
        "mean": statistics.fmean(run["test_accuracy"] for run in results.runs),
        "reached": " to ".join(map(str, dict.fromkeys((firsts[0], firsts[-1])))) if all(at_90) else "not by all",
        "training": _duration(statistics.median(run["train_seconds"] for run in results.runs)),
        "evaluations": _duration(statistics.median(evaluations)),
        "memory": max(run["peak_memory_bytes"] for run in results.runs) / 2**30,
    }


def name_device(results: Results) -> str:
    """Return the device of the results, and the instructions that it was kept to, if it was kept to older ones."""
    limit = next((part for part in results.platform.split(", ") if part.endswith(" by a limit of this process")), "")
    return f"{results.device}, kept to {limit.split()[0]}" if limit else results.device


def headline(results: Results) -> Iterator[Row]:
    """One row: the first recipe, and its time relative to the fastest peer whose mean accuracy reaches the target."""
    (_, first), *_ = results.grouped().items()
    median = statistics.median(run["seconds"] for run in first)
    relative: dict[float, str] = {}
    for name, runs in results.grouped().items():
        seconds = {run["seed"]: run["seconds"] for run in runs}
        ratios = [run["seconds"] / seconds[run["seed"]] for run in first if run["seed"] in seconds]
        reaches = statistics.fmean(run["final_accuracy"] for run in runs) >= results.settings["target_accuracy"]
        if name in results.peers and reaches and ratios:
            relative[statistics.median(seconds.values())] = f"{statistics.median(ratios):.2f} × {name}"
    accuracy = statistics.fmean(run["final_accuracy"] for run in first)
    joules = [run["joules"] for run in first if run.get("joules") is not None]
    fastest = relative[min(relative)] if relative else "–"
    yield {
        "device": f"{name_device(results)}, {_precision(results)}",
        "of": first,
        "runs": len(first),
        "mean": accuracy,
        "median": median,
        "dollars": _dollars(results, median),
        "joules": f"{statistics.median(joules):,.0f}" if joules else "–",
        "peer": fastest,
    }


def _dollars(results: Results, seconds: float) -> str:
    """Return what a run costs, and the price per hour that was stated or is in prices.toml, in parentheses."""
    price = results.extra.get("price_per_hour", PRICES.get(results.device, {}).get("dollars"))
    return "–" if price is None else f"{price * seconds / 3600:.2g} ({price:.3g})"


def trainings(results: Results) -> Iterator[Row]:
    """One row per recipe or peer; the times are relative to the first row."""
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in results.grouped().items()}
    first, target = next(iter(medians.values())), results.settings["target_accuracy"]
    digits = 1 if first > 10 else 3
    for name, runs in results.grouped().items():
        final, equivalents = [run["final_accuracy"] for run in runs], runs[0].get("era_epoch_equivalents")
        yield {
            "name": name, "of": runs, "runs": len(runs), "median": f"{medians[name]:.{digits}f}",
            "equivalents": "–" if equivalents is None else f"{equivalents:.2f}",
            "accuracy": _spread(final, 100, 2, "%"),
            "plain": _spread([run["test_accuracy"] for run in runs], 100, 2, "%"),
            "reached": sum(accuracy >= target for accuracy in final) / len(runs),
            "seconds": _spread([run["seconds"] for run in runs], 1, digits, ""), "relative": medians[name] / first,
        }  # fmt: skip


def _spread(values: list[float], scale: float, digits: int, unit: str) -> str:
    deviation = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{digits}f}{unit}{deviation}"


def pace(results: Results) -> Iterator[Row]:
    """One row per training: images and multiply-adds per second of training time."""
    for name, runs in results.grouped().items():
        images = [
            sum(e["images_per_second"] * e["train_seconds"] for e in r["history"]) / r["train_seconds"] for r in runs
        ]
        flops = statistics.median(2 * ERA_EPOCH * run["era_epoch_equivalents"] / run["train_seconds"] for run in runs)
        yield {"name": name, "of": runs, "runs": len(runs), "images": statistics.median(images), "gflops": flops / 1e9}


def differences(results: Results) -> Iterator[Row]:
    """One row per training: its difference from the first one, the whole recipe; also without TTA."""
    (recipe, whole), *others = results.grouped().items()
    labels = {f"{recipe}:{changes}": part for part, changes in ABLATIONS.get(recipe, {}).items()}
    groups = {"(the whole recipe)": whole}
    groups["test-time augmentation"] = [
        {**run, "final_accuracy": run["test_accuracy"], "seconds": run["train_seconds"] + run["eval_seconds"]}
        for run in whole
    ]
    groups |= {labels.get(name, f"`{name.partition(':')[2]}`"): runs for name, runs in others}
    base = {run["seed"]: run for run in whole}
    for label, runs in groups.items():
        pairs = [(run, base[run["seed"]]) for run in runs if run["seed"] in base]
        points = [100 * (run["final_accuracy"] - other["final_accuracy"]) for run, other in pairs]
        error = f"{statistics.stdev(points) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else "?"
        if pairs:
            yield {
                "label": label, "of": [run for run, _ in pairs], "seeds": len(pairs),
                "accuracy": statistics.fmean(run["final_accuracy"] for run, _ in pairs),
                "difference": "–" if runs is whole else f"{statistics.fmean(points):+.2f} ± {error}",
                "time": statistics.median(run["seconds"] / other["seconds"] for run, other in pairs),
            }  # fmt: skip


def many_seeds(results: Results) -> Iterator[Row]:
    """One row per way to train many seeds; times per run relative to the first row's, and equality with its results."""
    first = results.runs[0]
    for run in results.runs:
        count = min(run["runs"], first["runs"])
        equal = all(run[name][:count] == first[name][:count] for name in ("accuracies", "losses"))
        relative = run["seconds"] / run["runs"] / (first["seconds"] / first["runs"])
        pace = "–" if run["runs_per_minute"] is None else f"{run['runs_per_minute']:.1f}"
        same = "–" if run is first else "yes" if equal else "no"
        yield {**run, "relative": relative, "pace": pace, "same": same}


def learning_rates(results: Results) -> Iterator[Row]:
    """One row per learning rate: the validation accuracies of its runs."""
    for runs in results.grouped().values():
        lr, accuracies = runs[0]["config"]["max_lr"], [run["test_accuracy"] for run in runs]
        each = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        yield {
            "lr": lr,
            "multiple": lr / results.extra["suggestion"]["max_lr"],
            "each": each,
            "mean": statistics.fmean(accuracies),
        }


def below_best(results: Results) -> str:
    """The difference between the suggested learning rate's mean accuracy and the best one."""
    rows = list(learning_rates(results))
    suggested = min(rows, key=lambda row: abs(row["multiple"] - 1))
    below = 100 * (max(row["mean"] for row in rows) - suggested["mean"])
    seeds = f"{len({run['seed'] for run in results.runs})} of {results.settings['seeds']} seeds"
    return f"The suggestion is {below:.2f} points below the best mean; {seeds} were run."


def convolutions(results: Results) -> Iterator[Row]:
    """One row per convolution: the milliseconds of each algorithm, the one that is used in bold, and its errors."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in results.runs:
        key = tuple(run[name] for name in ("recipe", "image_size", "inputs", "outputs", "height", "width"))
        groups.setdefault(key, []).append(run)
    for (recipe, size, inputs, outputs, height, width), runs in groups.items():
        used = next(run for run in runs if run["chosen"])
        by_algorithm = {run["algorithm"]: f"{1e3 * run['seconds']['median']:.1f}" for run in runs}
        by_algorithm[used["algorithm"]] = f"**{by_algorithm[used['algorithm']]}**"
        yield {
            "recipe": recipe,
            "size": size,
            "layer": f"{inputs} → {outputs}, {height} × {width}",
            "milliseconds": " | ".join(by_algorithm.get(name, "–") for name in ALGORITHMS),
            "error": max(used["errors"]),
        }


def step_parts(results: Results) -> Iterator[Row]:
    """One row per batch size and part of a training step."""
    precision = _precision(results)
    names = {
        CEILING: f"{precision} matrix product (the ceiling)",
        "plain model step": "model step, float32, contiguous",
    }
    for batch_size, runs in results.grouped("batch_size").items():
        (ceiling,) = (run["flop"] / run["seconds"]["median"] for run in runs if run["part"] == CEILING)
        for run in runs:
            part, median = run["part"], run["seconds"]["median"]
            images = "" if part == CEILING else f"{batch_size / median:,.0f}"
            flops = f"{run['flop'] / median / 1e9:,.0f}" if run["flop"] else ""
            relative = f"{run['flop'] / median / ceiling:.0%}" if flops and images else ""
            named = {"recipe": run.get("recipe", "era"), "part": names.get(part, part)}
            yield {**run, **named, "images": images, "gflops": flops, "relative": relative}


def step_ratios(results: Results) -> str:
    """Ratios of the steps, one paragraph per batch size."""
    sentences = []
    for batch_size, runs in results.grouped("batch_size").items():
        model, whole, plain = (run["seconds"]["median"] for run in runs if run["part"].endswith("step"))
        sentences.append(
            f"`{runs[0].get('recipe', 'era')}`, batch size {batch_size}: the whole step takes {whole / model:.3f} "
            f"times as long as the model step, which takes {plain / model:.2f} times as long in float32 and contiguous "
            "memory format."
        )
    return "\n\n".join(sentences)


def augmentations(results: Results) -> Iterator[Row]:
    """One row per implementation of the augmentation, relative to ours."""
    median = {run["part"]: run["seconds"]["median"] for run in results.runs}
    for run in results.runs:
        ratio = "" if run["part"] in (FASTCIFAR, STEP) else f"{median[run['part']] / median[FASTCIFAR]:.1f} ×"
        yield {**run, "milliseconds": 1e3 * run["seconds"]["median"], "relative": ratio}


def fraction_of_step(results: Results) -> str:
    """The time of our augmentation relative to a step."""
    median = {run["part"]: run["seconds"]["median"] for run in results.runs}
    return f"fastcifar's augmentation takes {median[FASTCIFAR] / median[STEP]:.1%} of the time of a step."


def image_growth(results: Results) -> str:
    """The slope of a line through the logarithms, and deviations from a line through all sizes, relative to it."""
    counts = np.array([run["images"] for run in results.runs], dtype=np.float64)
    seconds = np.array([run["seconds"] for run in results.runs])
    slope, start = np.polyfit(counts, seconds, 1, w=1 / counts)
    exponent, _ = np.polyfit(np.log(counts), np.log(seconds), 1)
    deviation = np.abs(seconds / (slope * counts + start) - 1).max()
    memory = results.runs[-1]["anonymous_bytes"] / results.runs[0]["anonymous_bytes"] - 1
    return (
        f"The time grows with the number of images to the power of {exponent:.3f}; single sizes are up to "
        f"{deviation:.1%} off a straight line. From the fewest to the most images, the memory changes by {memory:+.1%}."
    )


def outcomes(results: Results) -> Iterator[Row]:
    """One row per kind of damage, with the number of each outcome."""
    for run in results.runs:
        if "part" in run:
            counts = (f"{name}: {number:,}" for name, number in run.items() if name not in ("part", "count", "faults"))
            yield {"part": run["part"], "times": run.get("count", run.get("faults")), "outcomes": "; ".join(counts)}


def resources(results: Results) -> str:
    """The growth of memory, threads and open files in a long run."""
    if results.benchmark != "soak":
        return ""
    settings, figures, last = results.settings, results.figures, results.runs[-1]
    named = {"anonymous_bytes": "anonymous memory", "threads": "threads", "open_files": "open files"}
    changes = ", ".join(f"{name} {round(100 * figures[key], 2) + 0.0:+.2f} %" for key, name in named.items())
    return (
        f"{figures['rounds']} trainings and evaluations ran in one process for {settings['minutes']:g} minutes. Growth "
        f"per hour, without the first {settings['settle']:g} minutes: {changes}. At the end the process has "
        f"{last['anonymous_bytes'] / 2**30:.2f} GiB of anonymous memory, {last['threads']} threads and "
        f"{last['open_files']} open files."
    )


def _precision(results: Results) -> str:
    """Such as "bfloat16", of "bfloat16 (AMP), channels-last"."""
    return re.split(r"\W", results.precision)[0]


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
