"""Predict the steps of several processes from what `benchmarks.scaling` measured of one, and of all-reduces alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.scaling_model import Bucket, Line, Step, step_seconds
from benchmarks.scaling_work import run_stages
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import Manifest

ORTHOGONALIZED, SHARED = "orthogonalisation", "orthogonalisation, shared"
MESSAGES = 2
"""Small all-reduces per step: of the loss, and of a signal to stop."""


def describe_work(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """Return what a prediction needs to know of a recipe's steps, from their most frequent kind."""
    stages = run_stages(config, images=manifest.samples, side=manifest.image_shape[0])
    stage = max(stages, key=lambda stage: stage.steps)
    unused = bool(config.freezing.freeze)  # the processes also tell each other which parameters a step has used
    return {
        "backward": stage.backward / (stage.forward + stage.backward),
        "buckets": [[bucket.size, bucket.ready] for bucket in stage.buckets],
        "messages": MESSAGES + unused,
    }


def predict(runs: Sequence[dict[str, Any]], work: dict[str, Any], *, devices: int, on_cpu: bool) -> list[float]:
    """Return the seconds of a step for each number of processes.

    Args:
        runs: the entries of a recipe in the result file. Of those with the part "training", the first, of one process,
            is the only one whose seconds are read.
        work: what `describe_work` returned.
        devices: cores or GPUs; more processes share them.
        on_cpu: on a CPU, gradients are not averaged while others are computed, since both need the same cores; and the
            processes share Muon's orthogonalisation.
    """
    trained = [run for run in runs if run["part"] == "training"]
    whole = next(run for run in trained if run["ranks"] == 1)
    alone = {
        run["images"]: run["seconds"]["median"] for run in [whole, *runs] if run is whole or run["part"] == "alone"
    }
    beside = [run["seconds"]["median"] / alone[run["images"]] for run in runs if run["part"] == "side by side"]
    computing, slowdown = Line.fit(alone), max(1.0, *beside, 1.0)
    predicted = []
    for run in trained:
        factor = max(1, math.ceil(run["ranks"] / devices)) * (slowdown if run["ranks"] > 1 else 1)
        predicted.append(_predict_one(run, runs, work, computing.scaled(factor), on_cpu))
    return predicted


def _predict_one(
    run: dict[str, Any], runs: Sequence[dict[str, Any]], work: dict[str, Any], computing: Line, on_cpu: bool
) -> float:
    if run["ranks"] == 1:
        return computing(run["images"])
    seconds: dict[str, dict[int, float]] = {}
    for each in runs:
        if each["ranks"] == run["ranks"]:
            seconds.setdefault(each["part"], {})[each["bytes"]] = each["seconds"]["median"]
    saved = seconds[ORTHOGONALIZED][0] - seconds[SHARED][0] if on_cpu and SHARED in seconds else 0.0
    images = computing.slope * run["images"]
    backward = work["backward"] * images
    buckets = [Bucket(size, ready) for size, ready in work["buckets"]]
    step = Step(images - backward, backward, computing.fixed - saved, buckets, work["messages"])
    return step_seconds(step, Line.fit(seconds["all-reduce"]), overlap=not on_cpu)
