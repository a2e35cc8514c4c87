from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.common import without_paths
from fastcifar import get_recipe
from fastcifar.errors import ConfigError, DataError


def record(name: str, **changes: Any) -> dict[str, Any]:
    """The name and the settings of a run's entry."""
    return {"name": name, "config": without_paths(get_recipe(name.split(":")[0], **changes))}


def test_the_ablation_table_pairs_runs_by_seed() -> None:
    def run(name: str, seed: int, accuracy: float, seconds: float) -> dict[str, Any]:
        timed = {"train_seconds": seconds - 2, "eval_seconds": 1, "seconds": seconds}
        accuracies = {"final_accuracy": accuracy, "tta_accuracy": accuracy, "test_accuracy": accuracy - 0.01}
        return {"name": name, "seed": seed, **accuracies, **timed}

    runs = [run("speedrun", 1, 0.90, 10), run("speedrun", 2, 0.92, 10)]
    runs += [run("speedrun:whiten=false", 2, 0.90, 5), run("speedrun:whiten=false", 1, 0.86, 5)]
    runs += [run("speedrun:dirac=false", 1, 0.89, 20), run("speedrun:dirac=false", 7, 0.10, 20)]
    table = tables.ablation_table({"device": "CPU: synthetic", "runs": runs}, "speedrun")
    assert table.splitlines()[4:] == [
        "| (the whole recipe) | 2 | 91.00 % | – | 1.00 × |",
        "| test-time augmentation | 2 | 90.00 % | -1.00 ± 0.00 | 0.90 × |",
        "| whitening of the first layer | 2 | 88.00 % | -3.00 ± 1.00 | 0.50 × |",
        "| identity initialisation of convolutions | 1 | 89.00 % | -1.00 ± ? | 2.00 × |",
    ]


def test_the_headline_pairs_a_recipe_with_the_fastest_peer_that_reaches_the_target() -> None:
    runs = {
        "speedrun": {1: 10.0, 2: 20.0, 3: 30.0},
        "era-fast": {1: 5.0},
        "peer, 1 epoch": {1: 1.0},
        "peer, 2 epochs": {1: 40.0, 2: 40.0, 9: 1.0, 10: 60.0},
        "peer, 3 epochs": {1: 90.0},
        "peer, from another seed": {7: 2.0},
    }
    figures = {
        name: {
            "runs": len(times),
            "accuracy": {"mean": 0.9012},
            "mean_reaches_target": name != "peer, 1 epoch",
            "seconds": {"median": statistics.median(times.values())},
        }
        for name, times in runs.items()
    }
    peers = {name: {} for name in runs if name.startswith("peer")}
    each = [{"name": name, "seed": s, "seconds": t} for name, times in runs.items() for s, t in times.items()]
    results = {"device": "CPU: synthetic", "figures": figures, "peers": peers, "runs": each}
    assert tables.headline_table(results, {**results, "peers": {}}).splitlines()[2:] == [
        "| CPU: synthetic | 3 | 90.12 % | 20 | 0.38 × peer, 2 epochs |",
        "| CPU: synthetic | 3 | 90.12 % | 20 | – |",
    ]


def test_the_throughput_table_counts_images_and_multiply_adds_of_whole_trainings() -> None:
    def run(seconds: float) -> dict[str, Any]:
        history = [
            {"images_per_second": 50_000 / (0.8 * seconds), "train_seconds": 0.8 * seconds},
            {"images_per_second": 10_000 / (0.2 * seconds), "train_seconds": 0.2 * seconds},
        ]
        return {"name": "era", "era_epoch_equivalents": 1.2, "train_seconds": seconds, "history": history}

    results = {"device": "CPU: synthetic", "figures": {"era": {}}, "runs": [run(100), run(400), run(200)]}
    assert tables.throughput_table(results).splitlines()[-1] == "| `era` | 3 | 300 | 683 |"


def test_rows_with_other_settings_than_todays_recipe_are_marked_and_explained() -> None:
    marks = tables.Marks()
    same = [record("speedrun", seed=3, device="cpu", compile=True, workers=1), record("speedrun")]
    assert marks.label("the recipe", same) == "the recipe"
    assert marks.label("a peer", [{"name": "airbench, 2 epochs"}]) == "a peer"
    assert marks.label("a change", [record("speedrun:epochs=3", epochs=3)]) == "a change"
    assert marks.label("the benchmark's change", [record("era", epochs=6)], ["epochs"]) == "the benchmark's change"
    assert marks.footnote() == ""
    earlier = record("speedrun:epochs=3", epochs=3, freeze=(), freeze_at=())
    assert marks.label("one of two", [*same, earlier]) == "one of two †"
    assert marks.label("alike", [earlier]) == "alike †"
    assert marks.label("padded", [record("era", padding=2)]) == "padded †"
    assert marks.footnote() == (
        "† The settings differ from today's recipe: one of two, alike in freeze, freeze_at; padded in padding."
    )


def test_a_marked_row_has_its_footnote_under_the_table() -> None:
    times = {"train_seconds": 60.0, "eval_seconds": 1.0, "peak_memory_bytes": 2**30, "test_accuracy": 0.9}
    runs = [
        {**record("era"), **times, "recipe": "era", "epochs": 24},
        {**record("quick", epochs=3), **times, "recipe": "quick", "epochs": 3},
    ]
    lines = tables.runs_table({"device": "CPU", "precision": "bfloat16 (AMP)", "runs": runs}).splitlines()
    assert [line.split("|")[1] for line in lines[2:4]] == [" `era` ", " `quick` † "]
    assert lines[4:] == ["", "† The settings differ from today's recipe: `quick` in epochs."]


def test_a_table_without_results_says_so_and_others_stay() -> None:
    text = "before\n<!-- data -->\nold\n<!-- end data -->\nafter\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tables.TABLES, "data", tables.table_per_file(tables.loaders_table, "missing"))
        assert tables.filled(text) == "before\n<!-- data -->\n\nNot measured yet.\n\n<!-- end data -->\nafter\n"
    assert tables.filled("no table") == "no table"


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a result file, and a README with its table."""
    results = {
        "benchmark": "data", "device": "CPU", "precision": "float32", "versions": {"torch": "2"}, "commit": "abc",
        "data": {"name": "cifar10", "content_sha256": "0"}, "runs": [{"part": "read", "seconds": {"median": 1.5}}],
    }  # fmt: skip
    (tmp_path / "data-cpu.json").write_text(json.dumps(results))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "FILES", (tmp_path / "README.md",))
    (tmp_path / "README.md").write_text(tables.filled("<!-- data -->\n<!-- end data -->\n"))
    return tmp_path


def test_the_check_passes_where_all_is_up_to_date(committed: Path) -> None:
    assert tables.find_problems() == []
    tables.main(tables.Tables(check=True))


def test_the_check_fails_where_a_table_is_not_up_to_date(committed: Path) -> None:
    readme = committed / "README.md"
    readme.write_text(readme.read_text().replace("1.500", "1.499"))
    with pytest.raises(DataError, match=r"README\.md: the tables are not up to date; run `python -m benchmarks"):
        tables.main(tables.Tables(check=True))
    tables.main(tables.Tables(write=True))
    assert tables.find_problems() == []


def test_the_check_fails_where_a_result_lacks_a_field(committed: Path) -> None:
    path = committed / "data-cpu.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "commit": None}))
    assert tables.find_problems() == ["data-cpu.json: has no commit"]
    path.write_text(json.dumps({**results, "runs": [{"part": "read"}]}))
    assert tables.find_problems() == [f"{committed / 'README.md'}: table 'data': a result file has no field 'seconds'"]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no table 'bygone'; the tables are headline, "):
        tables.filled("<!-- bygone -->\n<!-- end bygone -->")
