from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastcifar.cli import main

Capture = pytest.CaptureFixture[str]


def test_the_table_has_layers_shapes_and_totals(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["summary"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "6,573,130",
        "379.27 M",
        "26.29 MB",
        "4.65 MB",
        "512 × 4 × 4",
        "layer1: Sequential",
        "receptive field",
    ):
        assert text in shown
    assert "prep 64 × 32 × 32 → layer1 128 × 16 × 16 → layer2 256 × 8 × 8 → layer3 512 × 4 × 4 → head 10" in shown
    assert main(["summary", "custom_resnet", "--conv-bias", "--layer2-residual"]) == 0
    shown = capsys.readouterr().out
    assert "7,756,554" in shown
    assert "29.59 MiB" in shown


def test_json_output(capsys: Capture) -> None:
    assert main(["summary", "dilated_cnn", "--num-classes", "7", "--batch-size", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["input_shape"] == [3, 3, 32, 32]
    assert shown["layers"][-1]["output_shape"] == [7]
    assert {layer["name"]: layer["receptive_field"] for layer in shown["layers"]}["block4"] == [99, 99]


def test_the_network_of_a_run(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    run = str(tmp_path / "run")
    arguments = ["train", "--data-dir", str(betons), "--model", "dilated_cnn", "--batch-size", "100", "--epochs", "1"]
    assert main([*arguments, "--device", "cpu", "--run-dir", run]) == 0
    capsys.readouterr()
    assert main(["summary", "--run", run]) == 0
    shown = capsys.readouterr().out
    assert f"dilated_cnn, as trained in {run}" in shown
    assert "196,586" in shown
    assert main(["summary", "--run", run, "--dropout", "0.1"]) == 2
    assert "--run cannot be combined with dropout: both choose the network" in capsys.readouterr().err


def test_bad_input_is_an_error_of_one_line(tmp_path: Path, capsys: Capture) -> None:
    cases = {
        ("summary", "custom_resne"): (2, "did you mean custom_resnet?"),
        ("summary", "--run", str(tmp_path)): (1, "no such checkpoint"),
    }
    for arguments, (code, message) in cases.items():
        assert main(list(arguments)) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize("flag", ["--num-classes", "--batch-size"])
def test_a_count_below_one_is_an_error(flag: str, capsys: Capture) -> None:
    try:
        code = main(["summary", flag, "0"])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    assert code == 2
    assert "it must be a whole number, at least" in " ".join(capsys.readouterr().err.split())
