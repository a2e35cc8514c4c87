from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import without_paths
from benchmarks.results import Results
from fastcifar import get_recipe
from fastcifar.errors import ConfigError, DataError
from scripts import rows as row_module
from scripts import tables
from scripts.dynamics_rows import trained_on_wrong_labels, wrong_labels_found
from scripts.tables import TABLES, Table, changed_settings, filled, find_problems

FIELDS = {
    "benchmark": "data", "device": "CPU: synthetic", "precision": "bfloat16 (AMP)", "versions": {"torch": "2"},
    "commit": "abc", "data": {"name": "cifar10", "content_sha256": "0"},
}  # fmt: skip


def results(runs: list[dict[str, Any]], **fields: Any) -> Results:
    return Results(**{**FIELDS, **fields}, runs=runs)


def rows(name: str, *files: Results) -> list[str]:
    """The lines of a table below its heading."""
    lines = TABLES[name][0].render(files).splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1 :]


def record(name: str, **changes: Any) -> dict[str, Any]:
    """The name and the settings of a run's entry."""
    return {"name": name, "config": without_paths(get_recipe(name.split(":", maxsplit=1)[0], **changes))}


def test_the_ablation_table_pairs_runs_by_seed() -> None:
    def run(name: str, seed: int, accuracy: float, seconds: float) -> dict[str, Any]:
        timed = {"train_seconds": seconds - 2, "eval_seconds": 1, "seconds": seconds}
        return {"name": name, "seed": seed, "final_accuracy": accuracy, "test_accuracy": accuracy - 0.01, **timed}

    runs = [run("speedrun", 1, 0.90, 10), run("speedrun", 2, 0.92, 10)]
    runs += [run("speedrun:whiten=false", 2, 0.90, 5), run("speedrun:whiten=false", 1, 0.86, 5)]
    runs += [run("speedrun:dirac=false", 1, 0.89, 20), run("speedrun:dirac=false", 7, 0.10, 20)]
    runs += [run("speedrun:dirac=false,padding=0", 1, 0.91, 10)]
    assert rows("ablation_speedrun", results(runs)) == [
        "| (the whole recipe) | 2 | 91.00 % | – | 1.00 × |",
        "| test-time augmentation | 2 | 90.00 % | -1.00 ± 0.00 | 0.90 × |",
        "| whitening of the first layer | 2 | 88.00 % | -3.00 ± 1.00 | 0.50 × |",
        "| identity initialisation of convolutions | 1 | 89.00 % | -1.00 ± ? | 2.00 × |",
        "| `dirac=false,padding=0` | 1 | 91.00 % | +1.00 ± ? | 1.00 × |",
    ]


def test_many_seeds_are_compared_with_separate_runs() -> None:
    def way(name: str, processes: int, runs: int, seconds: float, pace: float | None, loss: float) -> dict[str, Any]:
        values = {"accuracies": [0.9] * runs, "losses": [loss] * runs}
        return {
            "name": name, "processes": processes, "runs": runs, "seconds": seconds, "runs_per_minute": pace, **values,
        }  # fmt: skip

    separate, one, two = (
        way("separate", 1, 2, 20, 6, 0.5),
        way("seeds", 1, 4, 8, 40, 0.5),
        way("seeds", 2, 4, 6, None, 0.6),
    )
    settings = {"recipe": "quick"}
    assert rows("seeds", results([separate, one, two], settings=settings)) == [
        "| separate | 1 | 2 | 20.0 | 1.00 × | 6.0 | – |",
        "| seeds | 1 | 4 | 8.0 | 0.20 × | 40.0 | yes |",
        "| seeds | 2 | 4 | 6.0 | 0.15 × | – | no |",
    ]


def test_the_headline_pairs_a_recipe_with_the_fastest_peer_that_reaches_the_target() -> None:
    seconds = {
        "speedrun": {1: 10.0, 2: 20.0, 3: 30.0},
        "era-fast": {1: 5.0},
        "peer, 1 epoch": {1: 1.0},
        "peer, 2 epochs": {1: 40.0, 2: 40.0, 9: 1.0, 10: 60.0},
        "peer, 3 epochs": {1: 90.0},
        "peer, from another seed": {7: 2.0},
    }
    runs = [
        {"name": name, "seed": seed, "seconds": time, "final_accuracy": 0.8 if name == "peer, 1 epoch" else 0.9012}
        for name, times in seconds.items()
        for seed, time in times.items()
    ]
    peers: dict[str, Any] = {name: {} for name in seconds if name.startswith("peer")}
    settings = {"target_accuracy": 0.9}
    assert rows("headline", results(runs, peers=peers, settings=settings), results(runs, settings=settings)) == [
        "| CPU: synthetic, bfloat16 | 3 | 90.12 % | 20 | – | – | 0.38 × peer, 2 epochs |",
        "| CPU: synthetic, bfloat16 | 3 | 90.12 % | 20 | – | – | – |",
    ]


def test_the_headline_has_the_cost_at_the_stated_price_or_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(row_module.PRICES, "CPU: synthetic", {"dollars": 0.5})
    runs = [
        {"name": "speedrun", "seed": seed, "seconds": 72.0, "final_accuracy": 0.9, "joules": joules}
        for seed, joules in enumerate((None, 1000.0, 5000.4, 9000.0))
    ]
    settings = {"target_accuracy": 0.9}
    free, stated = results(runs, settings=settings), results(runs, settings=settings, extra={"price_per_hour": 2.5})
    assert rows("headline", free, stated) == [
        "| CPU: synthetic, bfloat16 | 4 | 90.00 % | 72 | 0.01 (0.5) | 5,000 | – |",
        "| CPU: synthetic, bfloat16 | 4 | 90.00 % | 72 | 0.05 (2.5) | 5,000 | – |",
    ]


def test_each_price_has_its_source() -> None:
    assert all(price["dollars"] > 0 and price["source"] for price in row_module.PRICES.values())


def test_the_times_to_90_are_means_over_the_runs() -> None:
    runs = [
        {"name": "era", "test_accuracy": 0.90, "final_accuracy": 0.91, "seconds": 13.0, "era_epoch_equivalents": 0.5},
        {"name": "era", "test_accuracy": 0.88, "final_accuracy": 0.895, "seconds": 15.0, "era_epoch_equivalents": 0.5},
        {"name": "peer, 2 epochs", "test_accuracy": 0.9, "final_accuracy": 0.9, "seconds": 7.0},
    ]
    assert rows("time_to_90", results(runs, settings={"target_accuracy": 0.9})) == [
        "| `era` | 0.50 | 2 | 90.25 % ± 1.06 | 89.00 % ± 1.41 | 50 % | 14.0 ± 1.4 | 14.0 | 1.00 × |",
        "| `peer, 2 epochs` | – | 1 | 90.00 % | 90.00 % | 100 % | 7.0 | 7.0 | 0.50 × |",
    ]


def test_accuracies_on_a_validation_split_are_called_so() -> None:
    run = {**record("era"), "seed": 0, "final_accuracy": 0.9, "test_accuracy": 0.9, "seconds": 8.0}
    files = [results([run], settings={"target_accuracy": 0.93, "val_fraction": 0.1})]
    text = TABLES["era_validation"][0].render(files)
    assert text.startswith("CPU: synthetic, bfloat16 (AMP); evaluated on 10 % of the training set:")
    assert "| `era` | – | 1 | 90.00 % | 90.00 % | 0 % | 8.000 | 8.000 | 1.00 × |" in text


def test_the_pace_table_counts_images_and_multiply_adds_of_whole_trainings() -> None:
    def run(seconds: float) -> dict[str, Any]:
        history = [
            {"images_per_second": 50_000 / (0.8 * seconds), "train_seconds": 0.8 * seconds},
            {"images_per_second": 10_000 / (0.2 * seconds), "train_seconds": 0.2 * seconds},
        ]
        return {"name": "era", "era_epoch_equivalents": 1.2, "train_seconds": seconds, "history": history}

    assert rows("pace", results([run(100), run(400), run(200)])) == ["| `era` | 3 | 300 | 683 |"]


def test_a_run_with_tta_is_shown_with_its_accuracy_and_time() -> None:
    times = {"train_seconds": 180.0, "eval_seconds": 2.0, "peak_memory_bytes": 2**30}
    plain = {**record("era"), "recipe": "era", "epochs": 24, "test_accuracy": 0.93, **times}
    averaged = {**plain, "final_accuracy": 0.95, "seconds": 188.0}
    start = "| `era` | CPU: synthetic, bfloat16 | 24 |"
    assert rows("runs", results([plain, averaged])) == [
        f"{start} 93.00 % | 3.0 min | 2.00 s | 1.00 GiB |",
        f"{start} 95.00 % | 3.0 min | 8.00 s | 1.00 GiB |",
    ]


def test_the_times_of_all_epochs_are_medians_and_the_first_epoch_at_90_is_a_range() -> None:
    def run(accuracies: list[float], train_seconds: float, gib: float) -> dict[str, Any]:
        history = [
            {"epoch": number, "test_accuracy": accuracy, "eval_seconds": 2.0}
            for number, accuracy in enumerate(accuracies, start=1)
        ]
        times = {"train_seconds": train_seconds, "peak_memory_bytes": int(gib * 2**30)}
        return {"test_accuracy": accuracies[-1], "history": history, **times}

    runs = [run([0.5, 0.9, 0.93], 180, 1.5), run([0.5, 0.6, 0.92], 300, 2.5)]
    cells = "92.50 % | 2 to 3 | 4.0 min | 6.00 s | 2.5 GiB"
    assert rows("era_times", results(runs)) == [f"| CPU: synthetic | 2 | {cells} |"]
    never = results([*runs, run([0.5, 0.89], 240, 2.5)])
    assert rows("era_times", never) == ["| CPU: synthetic | 3 | 91.33 % | not by all | 4.0 min | 6.00 s | 2.5 GiB |"]
    assert rows("era_times", results(runs[:1])) == ["| CPU: synthetic | 1 | 93.00 % | 2 | 3.0 min | 6.00 s | 1.5 GiB |"]


def test_the_suggestion_is_compared_with_the_best_mean() -> None:
    accuracies = ((0.3, 0.1), (1.0, 0.5), (3.0, 0.8), (0.3, 0.2), (1.0, 0.7), (3.0, 0.6))
    runs = [
        {"name": f"era:max_lr={m}", "seed": n // 3, "test_accuracy": a, "config": {"max_lr": m / 100}}
        for n, (m, a) in enumerate(accuracies)
    ]
    extra = {"recipe": "era", "epochs": 6, "suggestion": {"max_lr": 0.01}}
    lines = rows("max_lr", results(runs, settings={"val_fraction": 0.1, "seeds": 4}, extra=extra))
    assert lines == [
        "| 0.003 | 0.3 × | 10.00 %, 20.00 % | 15.00 % |",
        "| 0.01 | 1 × | 50.00 %, 70.00 % | 60.00 % |",
        "| 0.03 | 3 × | 80.00 %, 60.00 % | 70.00 % |",
        "",
        "The suggestion is 10.00 points below the best mean; 2 of 4 seeds were run.",
    ]


def test_ratios_of_the_parts_of_a_step_are_computed_from_medians() -> None:
    seconds = {"loader": 0.1, "matrix product": 1.0, "model step": 2.0, "whole step": 2.2, "plain model step": 6.0}
    flop = {"matrix product": 4e9, "loader": 0}
    runs = [
        {"batch_size": 512, "part": part, "seconds": {"median": median}, "flop": flop.get(part, 4e9)}
        for part, median in seconds.items()
    ]
    lines = rows("throughput", results(runs, settings={"rounds": 3, "steps": 2}))
    assert lines[:3] == [
        "| `era` | 512 | loader | 0.1 | 5,120 |  |  |",
        "| `era` | 512 | bfloat16 matrix product (the ceiling) | 1 |  | 4 |  |",
        "| `era` | 512 | model step | 2 | 256 | 2 | 50 % |",
    ]
    assert "the whole step takes 1.100 times as long as the model step, which takes 3.00 times as long" in lines[-1]


def test_growth_is_compared_with_a_line() -> None:
    def sentence(seconds: list[float], memory: int = 100) -> str:
        counts = (1_000, 10_000, 100_000)
        runs = [{"images": n, "seconds": s, "anonymous_bytes": 100} for n, s in zip(counts, seconds, strict=True)]
        runs[-1]["anonymous_bytes"] = memory
        return rows("growth", results(runs))[-1]

    assert "off a straight line. From the fewest to the most images, the memory changes by +50.0 %" in sentence(
        [0.12, 0.3, 2.1], 150
    )
    assert "up to 0.0 % off a straight line" in sentence([0.12, 0.3, 2.1])
    assert "up to 0.0 % off" not in sentence([0.12, 0.3, 4.2])
    assert "to the power of 2.000;" in sentence([1e-3, 1e-1, 10])


def test_rows_with_other_settings_than_todays_recipe_are_marked_and_explained() -> None:
    table = Table("label | note", "{label} | -", lambda results: results.runs)
    same = [record("speedrun", seed=3, device="cpu", compile=True, workers=1), record("speedrun")]
    earlier = record("speedrun:epochs=3", epochs=3, freeze=(), freeze_at=())
    labelled = {
        "the recipe": same,
        "a peer": [{"name": "airbench, 2 epochs"}],
        "a change": [record("speedrun:epochs=3", epochs=3)],
        "one of two": [*same, earlier],
        "alike": [earlier],
        "padded": [record("era", padding=2)],
    }
    text = table.render([results([{"label": label, "of": runs} for label, runs in labelled.items()])])
    marked = [line for line in text.splitlines() if line.startswith("|") and "†" in line]
    assert marked == ["| one of two † | - |", "| alike † | - |", "| padded † | - |"]
    assert text.endswith(
        "† The settings differ from today's recipe: one of two, alike in freeze, freeze_at; padded in padding."
    )


def test_only_the_settings_of_the_recipe_are_compared_with_todays() -> None:
    def changed(recipe: str, name: str = "", **changes: Any) -> list[str]:
        return changed_settings({"name": name, "config": get_recipe(recipe).to_json() | changes})

    assert changed("era") == []
    assert changed("era", device="cuda", compile=True, amp=True, seed=7, val_fraction=0.1, run_dir="run") == []
    assert changed("era", batch_size=128, padding=2) == ["batch_size", "padding"]
    assert changed("era", "era:padding=2", batch_size=128, padding=2) == ["batch_size"]
    assert changed("era", base_recipe="bygone") == ["recipe"]
    for value in (None, False, 0, [], "none"):
        assert changed("era", bygone=value) == [], "a removed setting without an effect"
    assert changed("era", bygone=0.5) == ["bygone"]
    config = get_recipe("speedrun").to_json()
    del config["freeze"]
    assert changed_settings({"config": config}) == ["freeze"], "it had its default"


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a result file, and a README with its table."""
    results([{"part": "read", "seconds": {"median": 1.5}}]).write(tmp_path / "data-cpu.json")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "FILES", (tmp_path / "README.md",))
    (tmp_path / "README.md").write_text(filled("<!-- data -->\n<!-- end data -->\n"))
    return tmp_path


def test_the_check_passes_where_all_is_up_to_date(committed: Path) -> None:
    tables.main(check=True)
    assert "| read | 1.500 |" in (committed / "README.md").read_text()


def test_the_check_fails_where_a_table_is_not_up_to_date(committed: Path) -> None:
    readme = committed / "README.md"
    readme.write_text(readme.read_text().replace("1.500", "1.499"))
    with pytest.raises(DataError, match=r"README\.md: the tables are not up to date; run `python -m scripts\.tables"):
        tables.main(check=True)
    tables.main(write=True)
    tables.main(check=True)


def test_the_check_fails_where_a_result_lacks_a_field(committed: Path) -> None:
    path = committed / "data-cpu.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "commit": None}))
    with pytest.raises(DataError, match=r"data-cpu\.json: was not measured on a commit"):
        tables.main(check=True)
    path.write_text(json.dumps({**values, "runs": [{"part": "read"}]}))
    with pytest.raises(DataError, match="table 'data': a result file has no field 'seconds'"):
        tables.main(check=True)


def test_missing_and_contradicting_fields_are_problems(tmp_path: Path) -> None:
    run = {"epochs": 1, "test_accuracy": 0.9, "history": [{"test_accuracy": 0.9}]}
    path = tmp_path / "out.json"

    def problems(**changes: Any) -> list[str]:
        path.write_text(json.dumps({**FIELDS, "runs": [run], **changes}))
        return find_problems(path)

    synthetic = {"name": "synthetic", "content_sha256": "0"}
    assert problems() == problems(benchmark="soak", data=synthetic) == []
    assert problems(runs=[]) == ["out.json: has no runs"]
    assert problems(commit="abc-dirty") == ["out.json: was not measured on a commit"]
    assert problems(data=synthetic) == ["out.json: its data must be cifar10, with a content_sha256"]
    assert problems(runs=[run, {**run, "epochs": 2}]) == ["out.json: run 1 contradicts its history"]
    assert problems(runs=[{**run, "test_accuracy": 0.8}]) == ["out.json: run 0 contradicts its history"]
    assert "is not a result file" in problems(runs=3)[0]


def test_a_table_without_results_says_so_and_an_unknown_one_is_refused(committed: Path) -> None:
    text = "before\n<!-- loaders -->\nold\n<!-- end loaders -->\nafter\n"
    assert filled(text) == "before\n<!-- loaders -->\n\nNot measured yet.\n\n<!-- end loaders -->\nafter\n"
    assert filled("no table") == "no table"
    with pytest.raises(ConfigError, match="there is no table 'bygone'; the tables are headline, "):
        filled("<!-- bygone -->\n<!-- end bygone -->")


def test_the_table_of_a_file_is_printed(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables.main((committed / "data-cpu.json",))
    assert capsys.readouterr().out.endswith("| read | 1.500 |\n")
    results([{}], benchmark="bygone").write(committed / "other.json")
    with pytest.raises(ConfigError, match=r"other\.json: there is no table for the benchmark 'bygone'"):
        tables.main((committed / "other.json",))


def test_the_dynamics_table_has_the_means_of_each_score() -> None:
    def run(seed: int, margin: float, confidence: float) -> dict[str, Any]:
        found = {name: dict.fromkeys(("0.05", "0.15"), value) for name, value in (("m", margin), ("c", confidence))}
        shared = {"seed": seed, "wrong_labels": 5000, "test_accuracy": 0.85, "auroc": {"m": margin, "c": confidence}}
        return {**record("speedrun", dynamics=True), "recipe": "speedrun", "found": found, **shared}

    fractions = {"fractions": [0.05, 0.15]}
    measured = results([run(1, 0.9, 0.7), run(2, 1.0, 0.9)], settings=fractions)
    rows = list(wrong_labels_found(measured))
    assert [(row["score"], row["found_5"], row["found_15"], row["auroc"]) for row in rows] == [
        ("m", pytest.approx(0.95), pytest.approx(0.95), pytest.approx(0.95)),
        ("c", pytest.approx(0.8), pytest.approx(0.8), pytest.approx(0.8)),
    ]
    assert trained_on_wrong_labels(measured) == (
        "`speedrun`, 4.2 epochs, with 5,000 wrong labels, from seeds 1, 2; test accuracy 85.00%."
    )


def test_the_cost_of_records_is_relative_to_training_without_them() -> None:
    def run(part: str, seconds: float) -> dict[str, Any]:
        times = {key: {"min": seconds, "median": seconds, "all": [seconds]} for key in ("seconds", "processor_seconds")}
        return {**record("speedrun"), "part": part, "recipe": "speedrun", **times}

    measured = results([run("without records", 10), run("with records", 10.1)], settings={"steps": 10, "rounds": 5})
    assert rows("dynamics_overhead", measured) == [
        "| without records | 10.000 | +0.00 % | 10.000 | +0.00 % |",
        "| with records | 10.100 | +1.00 % | 10.100 | +1.00 % |",
    ]
