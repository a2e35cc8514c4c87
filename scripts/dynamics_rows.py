"""The rows of the tables of training dynamics, and the sentence below one of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.results import Results
from scripts.rows import Row


def wrong_labels_found(results: Results) -> Iterator[Row]:
    """One row per score: the means over the runs of the wrong labels that it finds."""
    runs = results.runs
    for score in runs[0]["found"]:
        found = {
            f"found_{100 * fraction:g}": statistics.fmean(run["found"][score][str(fraction)] for run in runs)
            for fraction in results.settings["fractions"]
        }
        auroc = statistics.fmean(run["auroc"][score] for run in runs)
        yield {"of": runs, "score": score, "runs": len(runs), "auroc": auroc, **found}


def trained_on_wrong_labels(results: Results) -> str:
    """The runs behind the wrong labels that were found."""
    first = results.runs[0]
    accuracy = statistics.fmean(run["test_accuracy"] for run in results.runs)
    return (
        f"`{first['recipe']}`, {first['config']['epochs']:g} epochs, with {first['wrong_labels']:,} wrong labels, from "
        f"seeds {', '.join(str(run['seed']) for run in results.runs)}; test accuracy {accuracy:.2%}."
    )


def record_costs(results: Results) -> Iterator[Row]:
    """One row per kind of training: its times, and those relative to training without records."""
    keys = ("seconds", "processor_seconds")
    base = {key: results.runs[0][key] for key in keys}
    for run in results.runs:
        ratios = {f"relative_{key}": run[key]["min"] / base[key]["min"] - 1 for key in keys}
        yield {**run, "of": [run], **ratios}
