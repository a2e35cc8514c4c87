from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastcifar.cli import main
from fastcifar.commands.lr_find import find_lr
from fastcifar.commands.train import train_arguments, train_default
from fastcifar.config import LrFinderSettings
from fastcifar.report.units import format_lr
from fastcifar.runs.read import read_config
from tests.helpers import TinyNet

Capture = pytest.CaptureFixture[str]
SHORT = LrFinderSettings(iterations=20, start_lr=1e-4, smoothing=0.2)


def _command(name: str, betons: Path, *more: str) -> list[str]:
    no_report = ["--no-report"] if name == "train" else []  # it would load another network than the tiny one
    return [name, "--data-dir", str(betons), "--batch-size", "20", "--device", "cpu", "--amp", *no_report, *more]


def _error(capsys: Capture) -> str:
    """The one line on the standard error stream."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastcifar: ")
    return line


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is the tiny one, and the range test before a training is short."""
    monkeypatch.setattr("fastcifar.training.state.model_from_config", lambda *_: TinyNet())
    monkeypatch.setattr("fastcifar.commands.train_lrs.find_lr", functools.partial(find_lr, settings=SHORT))


def test_lr_find_prints_its_suggestions_and_writes_a_figure_and_the_curve(
    betons: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--start-lr", "1e-4", "--end-lr", "0.5", "--iterations", "30", "--smoothing", "0.3", "--recipe", "quick"]
    assert main(_command("lr-find", betons, *flags)) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-lr-find")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_finder.json", "lr_finder.png"]
    text = (folder / "lr_finder.json").read_text()
    saved = json.loads(text)
    assert saved["curve"]["lrs"] == pytest.approx(np.geomspace(1e-4, 0.5, 30)[: len(saved["curve"]["lrs"])])
    assert len(saved["curve"]["losses"]) == len(saved["curve"]["raw"]) == len(saved["curve"]["lrs"])
    assert saved["curve"]["settings"]["smoothing"] == 0.3
    assert (saved["config"]["base_recipe"], saved["config"]["batch_size"]) == ("quick", 20)
    assert saved["environment"]["data"]["name"] == "synthetic"
    assert str(betons.parent) not in text
    assert str(tmp_path) not in text
    shown = capsys.readouterr()
    assert shown.err == ""
    for name in ("max_lr", "valley", "steepest", "min_lr", "max_lr_tenth"):
        assert format_lr(saved["suggestion"][name], 2) in shown.out
    assert str(Path("runs") / folder.name / "lr_finder.png") in shown.out


def test_a_test_that_diverges_at_once_is_one_line(betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    out = tmp_path / "out"
    flags = ["--start-lr", "1e5", "--end-lr", "1e9", "--out", str(out)]
    assert main(_command("lr-find", betons, *flags)) == 1
    message = _error(capsys)
    assert "diverged at once: the loss did not decrease from --start-lr 100000 on" in message
    assert message.endswith("use a lower --start-lr")
    assert not out.exists()


def test_wrong_flags_of_lr_find_are_usage_errors(betons: Path, capsys: Capture) -> None:
    assert main(_command("lr-find", betons, "--recipe", "erra")) == 2
    assert "did you mean era?" in _error(capsys)
    with pytest.raises(SystemExit) as stopped:
        main(_command("lr-find", betons, "--mode", "cosine"))
    assert stopped.value.code == 2


def test_train_uses_the_learning_rates_that_it_finds(betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    runs = {name: tmp_path / name for name in ("found", "given")}
    train = _command("train", betons, "--epochs", "1")
    assert main([*train, "--run-dir", str(runs["found"]), "--max-lr", "find", "--min-lr=find"]) == 0
    assert {"lr_finder.json", "lr_finder.png", "config.json"} <= {path.name for path in runs["found"].iterdir()}
    suggestion = json.loads((runs["found"] / "lr_finder.json").read_text())["suggestion"]
    config = read_config(runs["found"])
    assert config.optim.max_lr == suggestion["max_lr"]
    assert config.optim.max_lr / config.optim.div_factor == pytest.approx(suggestion["min_lr"])
    assert "LRMAX" in capsys.readouterr().out

    flags = ["--max-lr", repr(suggestion["max_lr"]), "--min-lr", repr(suggestion["min_lr"])]
    assert main([*train, "--run-dir", str(runs["given"]), *flags]) == 0
    lines = [json.loads((run / "metrics.jsonl").read_text()) for run in runs.values()]
    for name in ("train_loss", "test_loss", "lr_start", "lr_end"):
        assert lines[0][name] == lines[1][name], "the range test changed nothing"

    assert main([*train, "--run-dir", str(runs["given"]), "--max-lr=find"]) == 1
    assert "already holds a run" in _error(capsys)
    assert not (runs["given"] / "lr_finder.json").exists()


def test_only_one_of_the_two_learning_rates_may_be_found(betons: Path, tmp_path: Path, tiny: None) -> None:
    train = _command("train", betons, "--epochs", "1", "--div-factor", "7")
    assert main([*train, "--run-dir", str(tmp_path / "max"), "--max_lr=find"]) == 0
    found, config = json.loads((tmp_path / "max" / "lr_finder.json").read_text()), read_config(tmp_path / "max")
    assert (config.optim.max_lr, config.optim.div_factor) == (found["suggestion"]["max_lr"], 7)
    assert main([*train, "--run-dir", str(tmp_path / "min"), "--min-lr", "find", "--max-lr", "0.9"]) == 0
    found, config = json.loads((tmp_path / "min" / "lr_finder.json").read_text()), read_config(tmp_path / "min")
    assert config.optim.max_lr == 0.9
    assert config.optim.div_factor == pytest.approx(0.9 / found["suggestion"]["min_lr"])


def test_muon_trains_all_groups_at_the_ratios_that_the_range_test_tested(
    betons: Path, tmp_path: Path, tiny: None, capsys: Capture
) -> None:
    recipe = ["--recipe", "era", "--optimizer", "muon", "--max-lr", "0.2", "--bias-lr", "4", "--head-lr", "6"]
    groups = ("max_lr", "bias_lr", "head_lr")
    assert main(_command("lr-find", betons, *recipe, "--start-lr", "1e-4", "--out", str(tmp_path / "found"))) == 0
    suggestion = json.loads((tmp_path / "found" / "lr_finder.json").read_text())["suggestion"]
    assert suggestion["bias_lr"] == pytest.approx(20 * suggestion["max_lr"])
    assert suggestion["head_lr"] == pytest.approx(30 * suggestion["max_lr"])
    flags = [f"--{name.replace('_', '-')} {suggestion[name]:.3g}" for name in groups]
    assert " ".join(flags) in capsys.readouterr().out

    recipe = ["--recipe", "era", "--optimizer", "muon", "--max-lr", "find", "--bias-lr", "0.04", "--head-lr", "0.06"]
    assert main(_command("train", betons, "--epochs", "1", "--run-dir", str(tmp_path / "run"), *recipe)) == 0
    optim = read_config(tmp_path / "run").optim
    found = json.loads((tmp_path / "run" / "lr_finder.json").read_text())["suggestion"]
    assert [getattr(optim, name) for name in groups] == [found[name] for name in groups]
    assert (optim.bias_lr / optim.max_lr, optim.head_lr / optim.max_lr) == pytest.approx((20, 30)), "of era, 2e-3"


def test_min_lr_sets_the_first_learning_rate(capsys: Capture) -> None:
    assert main(["train", "--max-lr", "0.01", "--min-lr", "0.002", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["div_factor"] == pytest.approx(5)
    for value in ("0.02", "0", "-1"):
        assert main(["train", "--max-lr", "0.01", f"--min-lr={value}", "--dry-run"]) == 2
        assert "above 0 and at most max_lr, 0.01" in _error(capsys)


@pytest.mark.parametrize("flag", ["--dry-run", "--resume"])
def test_find_works_with_a_new_run_only(flag: str, betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(_command("train", betons, "--epochs", "1", "--run-dir", str(run))) == 0
    capsys.readouterr()
    for find in (["--max-lr", "find"], ["--min-lr", "find"]):
        assert main(["train", *find, *([flag] if flag == "--dry-run" else [flag, str(run)])]) == 2
        assert f"cannot be combined with {flag}" in _error(capsys)


def test_max_lr_find_is_recognised_in_both_spellings_and_numbers_are_unchanged() -> None:
    for arguments, others in (
        (["--amp", "--max-lr", "find", "--epochs", "3"], ["--amp", "--epochs", "3"]),
        (["--max-lr=find"], []),
    ):
        assert train_arguments(arguments) == others
        assert train_default(arguments).find_max_lr
    for unchanged in (["--max-lr", "0.1", "--amp"], ["--max-lr"], ["--min-lr", "find"], []):
        assert train_arguments(unchanged) == unchanged
        assert not train_default(unchanged).find_max_lr


def test_the_commands_do_not_import_torch() -> None:
    code = "import sys, fastcifar.commands.lr_find, fastcifar.commands.train; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
