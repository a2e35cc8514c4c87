"""The rows of the tables on several devices: measured steps, and steps on GPUs as the simulator predicts them."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.results import FOLDER, Results
from benchmarks.scaling_model import Cluster, Line, Link, Step, step_seconds
from benchmarks.scaling_predict import ORTHOGONALIZED, SHARED
from benchmarks.scaling_work import Stage, run_stages
from fastcifar import get_recipe

Row = dict[str, Any]
IMAGES = 50_000
"""Training images of CIFAR-10."""
LINKS = {
    "NVLink": Link(1.5e-6, 350e9),
    "PCIe 4.0 × 16": Link(3e-6, 20e9),
    "400 Gb/s InfiniBand": Link(4e-6, 45e9),
    "100 Gb/s InfiniBand": Link(4e-6, 11e9),
    "25 Gb/s Ethernet": Link(25e-6, 2.8e9),
}
"""Assumptions, rounded from what such links typically reach; not measured here."""
NETWORKS = {
    "fast": Cluster(LINKS["NVLink"], LINKS["400 Gb/s InfiniBand"]),
    "medium": Cluster(LINKS["NVLink"], LINKS["100 Gb/s InfiniBand"]),
    "slow": Cluster(LINKS["PCIe 4.0 × 16"], LINKS["25 Gb/s Ethernet"]),
}
"""The columns of the table."""
GPUS = (1, 2, 4, 8, 16, 32, 64)
WORTH_IT = 0.5
"""The efficiency below which another GPU adds little."""


def measured(results: Results) -> Iterator[Row]:
    """One row per recipe and number of processes: measured, ideal and predicted."""
    for recipe, runs in results.grouped("recipe").items():
        trained = [run for run in runs if run["part"] == "training"]
        (first,) = (run["seconds"]["median"] for run in trained if run["ranks"] == 1)
        for run in trained:
            seconds = run["seconds"]["median"]
            several = run["ranks"] > 1
            megabytes = sum(size for size, _ in run["buckets"]) / 1e6 if several else 0.0
            yield {
                **run, "recipe": recipe, "megabytes": f"{megabytes:.1f}", "low": 1e3 * run["seconds"]["min"],
                "milliseconds": 1e3 * seconds, "high": 1e3 * run["seconds"]["max"], "speedup": first / seconds,
                "ideal": min(run["ranks"], results.settings["devices"]),
                "predicted": f"{1e3 * run['predicted']:.0f}" if several else "–",
                "error": f"{run['predicted'] / seconds - 1:+.1%}" if several else "–",
            }  # fmt: skip


def orthogonalisations(results: Results) -> Iterator[Row]:
    """One row per recipe with Muon and number of processes: its orthogonalisation in each process, and shared."""
    for recipe, runs in results.grouped("recipe").items():
        by_part = {(run["part"], run["ranks"]): 1e3 * run["seconds"]["median"] for run in runs if not run["bytes"]}
        for (part, ranks), whole in by_part.items():
            if part == ORTHOGONALIZED and ":" not in recipe:
                step = by_part["training", ranks]
                shared = by_part[SHARED, ranks]
                saved = (whole - shared) / step
                yield {"recipe": recipe, "ranks": ranks, "whole": whole, "shared": shared, "step": step, "saved": saved}


def links(_: Results) -> Iterator[Row]:
    """One row per assumed link."""
    for name, link in LINKS.items():
        yield {"name": name, "microseconds": 1e6 * link.latency, "gigabytes": link.bandwidth / 1e9}


def work(results: Results) -> Iterator[Row]:
    """One row per recipe: the bytes of its gradients, how they overlap, and the time of a step on one GPU."""
    for recipe, cost in _costs(results).items():
        stages = _stages(recipe)
        common = max(stages, key=lambda stage: stage.steps)
        buckets = " + ".join(f"{bucket.size / 1e6:.1f}" for bucket in common.buckets)
        ready = ", ".join(f"{bucket.ready:.0%}" for bucket in common.buckets)
        batch = get_recipe(recipe).data.batch_size
        whole = 1e3 * mean_seconds(stages, cost, batch, lambda _: 0.0)
        yield {
            "recipe": recipe,
            "batch": batch,
            "buckets": buckets,
            "ready": ready,
            "fixed": 1e3 * cost.fixed,
            "step": whole,
        }


def on_paper(results: Results) -> Iterator[Row]:
    """One row per recipe and number of GPUs: predicted milliseconds per step and efficiencies."""
    for recipe, cost in _costs(results).items():
        for gpus in GPUS:
            batch = get_recipe(recipe).data.batch_size
            row = {"recipe": recipe, "gpus": gpus, "hosts": NETWORKS["fast"].hosts(gpus), "images": batch / gpus}
            for name, network in NETWORKS.items():
                seconds = _predicted(recipe, cost, network, gpus, batch / gpus)
                single = _predicted(recipe, cost, network, 1, batch)
                row[name] = f"{1e3 * seconds:.2f} ({single / gpus / seconds:.0%})"
                row[f"{name}_scaled"] = f"{single / _predicted(recipe, cost, network, gpus, batch):.0%}"
            yield row


def worth_it(results: Results) -> str:
    """The largest numbers of GPUs that are used well."""
    sentences = []
    for recipe, cost in _costs(results).items():
        batch = get_recipe(recipe).data.batch_size
        most = []
        for network in NETWORKS.values():
            single = _predicted(recipe, cost, network, 1, batch)
            efficient = (n for n in GPUS if single / n / _predicted(recipe, cost, network, n, batch / n) >= WORTH_IT)
            most.append(str(max(efficient)))
        sentences.append(
            f"`{recipe}`, with its own batch size, has an efficiency of {WORTH_IT:.0%} or more on up to "
            f"{', '.join(most[:-1])} and {most[-1]} GPUs."
        )
    return "\n\n".join(sentences)


def mean_seconds(
    stages: Sequence[Stage], cost: Line, images: float, all_reduce: Callable[[float], float], messages: int = 0
) -> float:
    """Return the mean time of a run's steps, of so many images on each device.

    Args:
        stages: the work of the run.
        cost: seconds by FLOPs.
        images: images per device.
        all_reduce: seconds by bytes.
        messages: small all-reduces per step.
    """
    total = 0.0
    for stage in stages:
        forward, backward = (cost.slope * flops * images for flops in (stage.forward, stage.backward))
        step = Step(forward, backward, cost.fixed, stage.buckets, messages)
        total += stage.steps * step_seconds(step, all_reduce)
    return total / sum(stage.steps for stage in stages)


def _predicted(recipe: str, cost: Line, cluster: Cluster, gpus: int, images: float) -> float:
    messages = 1 if gpus > 1 else 0
    return mean_seconds(_stages(recipe), cost, images, functools.partial(cluster.all_reduce, devices=gpus), messages)


@functools.cache
def _stages(recipe: str) -> list[Stage]:
    return run_stages(get_recipe(recipe), images=IMAGES)


def _costs(results: Results) -> dict[str, Line]:
    """Return the seconds of a step by its FLOPs, of the recipes in a result file of trainings on a GPU."""
    if results.benchmark == "era":
        return {"era": _cost_of_era(results)}
    return {recipe: _cost_by_epochs(results, recipe) for recipe in ("era-fast", "speedrun")}


def _cost_by_epochs(results: Results, recipe: str) -> Line:
    """Fit the median times of a recipe's epochs, which have other image sizes; the first one also reads the data."""
    batch = get_recipe(recipe).data.batch_size
    flops = [(stage.forward + stage.backward) * batch for stage in _stages(recipe) for _ in range(stage.steps)]
    per_epoch, runs = IMAGES // batch, results.grouped()[recipe]
    seconds: dict[float, float] = {}
    for epoch in range(1, len(runs[0]["history"])):
        steps = flops[epoch * per_epoch : (epoch + 1) * per_epoch]
        whole = statistics.median(run["history"][epoch]["train_seconds"] for run in runs)
        seconds[statistics.fmean(steps)] = whole / len(steps)
    return Line.fit(seconds)


def _cost_of_era(results: Results) -> Line:
    """Fit a step of its batch size, and those of large batches, in which launches take no time of their own."""
    config, (stage,) = get_recipe("era"), _stages("era")
    flops, batch = stage.forward + stage.backward, config.data.batch_size
    epochs = [epoch["train_seconds"] for run in results.runs for epoch in run["history"][1:]]
    seconds = {flops * batch: statistics.median(epochs) / (IMAGES // batch)}
    for run in Results.read(FOLDER / "throughput-gpu.json").runs:
        if run["part"] == "whole step" and run["batch_size"] >= 2048:
            seconds[flops * run["batch_size"]] = run["seconds"]["median"]
    return Line.fit(seconds)
