from __future__ import annotations

from typing import Any

import pytest

from benchmarks.results import FOLDER, Results
from benchmarks.scaling_model import Line
from benchmarks.scaling_predict import ORTHOGONALIZED, SHARED
from benchmarks.scaling_work import run_stages
from fastcifar import get_recipe
from scripts import scaling_rows

FIELDS = {
    "benchmark": "scaling", "device": "CPU: synthetic", "precision": "bfloat16 (AMP)", "versions": {}, "commit": "abc",
    "data": {}, "settings": {"devices": 2},
}  # fmt: skip


def run(part: str, ranks: int, seconds: float, **fields: Any) -> dict[str, Any]:
    summary = {"median": seconds, "min": seconds, "max": 2 * seconds}
    return {"recipe": "speedrun", "part": part, "ranks": ranks, "images": 0, "bytes": 0, "seconds": summary, **fields}


def test_measured_steps_are_compared_with_one_process_and_with_the_prediction() -> None:
    trained = {"buckets": [[2_000_000, 1.0]]}
    runs = [
        run("training", 1, 0.4, images=100, predicted=0.41, **trained),
        run("training", 4, 0.25, images=25, predicted=0.2, **trained),
        run(ORTHOGONALIZED, 4, 0.03),
        run(SHARED, 4, 0.01),
    ]
    results = Results(**FIELDS, runs=runs)
    one, four = scaling_rows.measured(results)
    assert (one["speedup"], one["ideal"], one["megabytes"], one["error"]) == (1.0, 1, "0.0", "–")
    assert four["speedup"] == pytest.approx(1.6)
    assert (four["ideal"], four["megabytes"], four["predicted"], four["error"]) == (2, "2.0", "200", "-20.0%")
    (row,) = scaling_rows.orthogonalisations(results)
    assert (row["ranks"], row["whole"], row["shared"]) == (4, 30.0, 10.0)
    assert row["saved"] == pytest.approx(0.08)


def test_the_mean_step_weighs_the_stages_of_a_run() -> None:
    stages = run_stages(get_recipe("speedrun"), images=50_000)
    cost = Line(fixed=0.001, slope=1e-14)
    expected = sum(
        stage.steps * (cost.fixed + cost.slope * (stage.forward + stage.backward) * 1000) for stage in stages
    ) / sum(stage.steps for stage in stages)
    assert scaling_rows.mean_seconds(stages, cost, 1000, lambda _: 0.0) == pytest.approx(expected)
    assert scaling_rows.mean_seconds(stages, cost, 0, lambda _: 0.5) == pytest.approx(0.001 + 2 * 0.5)


@pytest.mark.parametrize("name", ["era-gpu", "time-to-90-gpu"])
def test_predictions_for_gpus_follow_the_links(name: str) -> None:
    results = Results.read(FOLDER / f"{name}.json")
    everything = list(scaling_rows.on_paper(results))
    for start in range(0, len(everything), len(scaling_rows.GPUS)):
        rows = everything[start : start + len(scaling_rows.GPUS)]
        assert [row["gpus"] for row in rows] == [*scaling_rows.GPUS]
        assert [row["hosts"] for row in rows] == [1, 1, 1, 1, 2, 4, 8]
        for network in scaling_rows.NETWORKS:
            efficiencies = [int(row[network].split("(")[1].rstrip("%)")) for row in rows]
            assert efficiencies[0] == 100
            assert efficiencies == sorted(efficiencies, reverse=True)
            scaled = [int(row[f"{network}_scaled"].rstrip("%")) for row in rows]
            assert all(larger >= each for larger, each in zip(scaled, efficiencies, strict=True))
        for fast, slow in ((float(row["fast"].split()[0]), float(row["slow"].split()[0])) for row in rows):
            assert fast <= slow
    for row in scaling_rows.work(results):
        assert 0 < row["fixed"] < row["step"]


def test_the_cost_of_a_step_on_a_gpu_agrees_with_its_trainings() -> None:
    results = Results.read(FOLDER / "time-to-90-gpu.json")
    for row in scaling_rows.work(results):
        runs = results.grouped()[row["recipe"]]
        steps = sum(stage.steps for stage in run_stages(get_recipe(row["recipe"]), images=50_000))
        assert row["step"] == pytest.approx(1e3 * runs[-1]["train_seconds"] / steps, rel=0.1)
