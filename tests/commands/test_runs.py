from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
from pyarrow import parquet

from fastcifar import get_recipe
from fastcifar.cli import main
from fastcifar.runs.listing import COLUMNS
from tests.runs.examples import result, write_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `runs` in the current folder: three runs of era, the last one stopped, and one of speedrun."""
    monkeypatch.chdir(tmp_path)
    chosen = (("a", "era", 0, 2), ("b", "era", 1, 2), ("c", "speedrun", 0, 2), ("d", "era", 2, 1))
    for number, (name, recipe, seed, epochs) in enumerate(chosen):
        run = write_run(
            tmp_path / "runs" / name, results=[result(1), result(2, test_accuracy=0.9 + number / 100)][:epochs]
        )
        (run / "config.json").write_text(json.dumps(get_recipe(recipe, seed=seed).to_json()))
        os.utime(run / "metrics.jsonl", (1e9 + number, 1e9 + number))
    return tmp_path / "runs"


def _names(capsys: Capture) -> list[str]:
    return [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_the_table_has_a_line_per_run_and_the_newest_is_last(runs: Path, capsys: Capture) -> None:
    assert main(["runs"]) == 0
    head, *lines, count = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "name", "recipe", "seed", "epoch", "epochs", "status", "accuracy", "best", "time", "device", "data",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["a", "b", "c", "d"]
    assert " ".join(lines[1].split()) == "b era 1 2 24 finished 91.00 % 50.00 % 20.0 s CPU: example synthetic"
    assert "stopped" in lines[3]
    assert count == "4 of 4 runs"


def test_a_narrow_terminal_gets_fewer_columns_and_whole_lines(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, last in (("60", "accuracy"), ("120", "data")):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["runs"]) == 0
        head, *lines, _ = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        assert head.split()[-1] == last
        assert len(lines) == 4


def test_runs_are_filtered_sorted_and_shown_with_chosen_columns(runs: Path, capsys: Capture) -> None:
    assert main(["runs", "--where", 'recipe == "era" and test_accuracy > 0.9', "--json"]) == 0
    assert _names(capsys) == ["b"]
    assert main(["runs", str(runs), "--sort", "max_lr", "--json"]) == 0
    assert _names(capsys) == ["a", "b", "d", "c"]
    assert main(["runs", "--where", "seed == 0", "--columns", "name", "max_lr", "resize_sizes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["name", "max_lr", "resize_sizes"],
        ["a", "0.002", "[]"],
        ["c", "0.24", "[16,", "24]"],
        ["2", "of", "4", "runs"],
    ]
    assert main(["runs", "--where", "seed == 9"]) == 0
    assert capsys.readouterr().out == "0 of 4 runs\n"


def test_json_has_all_columns(runs: Path, capsys: Capture) -> None:
    assert main(["runs", "--json"]) == 0
    assert all(tuple(row) == COLUMNS for row in json.loads(capsys.readouterr().out))


def test_finished_runs_are_compared_over_their_seeds(runs: Path, capsys: Capture) -> None:
    assert main(["runs", "--compare"]) == 0
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines()] == [
        ["recipe", "changes", "runs", "seeds", "accuracy", "sd", "ci95"],
        ["era", "2", "2", "90.50", "%", "0.71", "%", "6.35", "%"],
        ["speedrun", "1", "1", "92.00", "%", "–", "–"],
    ]
    assert captured.err == "left out, since they are not finished: 1 runs\n"
    assert main(["runs", "--compare", "--metric", "test_loss", "--out", "groups.csv"]) == 0
    with Path("groups.csv").open() as file:
        groups = list(csv.DictReader(file))
    assert {(group["recipe"], group["test_loss"], group["max_lr"]) for group in groups} == {
        ("era", "1.25", "0.002"), ("speedrun", "1.25", "0.24"),
    }  # fmt: skip


def test_a_table_is_written_as_csv_and_as_parquet(runs: Path, capsys: Capture) -> None:
    for name in ("table.csv", "table.parquet"):
        assert main(["runs", "--out", name]) == 0
        assert capsys.readouterr().out == f"Table: {name}\n"
    with Path("table.csv").open() as file:
        written = list(csv.DictReader(file))
    typed = parquet.read_table("table.parquet").to_pylist()
    assert main(["runs", "--json"]) == 0
    for row, text, values in zip(json.loads(capsys.readouterr().out), written, typed, strict=True):
        flat = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
        assert values == flat
        assert text == {name: "" if value is None else str(value) for name, value in flat.items()}
    assert tuple(written[0]) == tuple(typed[0]) == COLUMNS


def test_bad_input_is_one_line(runs: Path, capsys: Capture) -> None:
    cases = {
        ("none",): (1, "none: there is no such folder"),
        ("--where", "acc > 1"): (2, "there is no column 'acc'"),
        ("--sort", "lr"): (2, "there is no column 'lr': did you mean max_lr?"),
        ("--columns", "name", "x"): (2, "there is no column 'x'"),
        ("--out", "table.txt"): (2, "table.txt: a table is written as .csv or .parquet"),
        ("--compare", "--sort", "name"): (2, "leave out --columns and --sort"),
        ("--compare", "--metric", "recipe"): (2, "it must be a column of numbers"),
    }
    for arguments, (code, message) in cases.items():
        assert main(["runs", *arguments]) == code
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("left out")]
        assert message in line


def test_damaged_runs_are_named_and_passed_over(runs: Path, capsys: Capture) -> None:
    (runs / "a" / "config.json").write_text("{")
    assert main(["runs"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("passed over runs/a/config.json: ")
    assert captured.out.endswith("3 of 3 runs\n")
