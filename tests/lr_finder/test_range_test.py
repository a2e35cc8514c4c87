from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastcifar import TrainConfig
from fastcifar.cli import main
from fastcifar.commands.lr_find import find_rates
from fastcifar.commands.train import train_arguments
from fastcifar.errors import ConfigError, TrainingError
from fastcifar.report.lr_plot import draw_lr_curve
from fastcifar.report.units import format_rate
from fastcifar.lr_finder.suggest import LrCurve, suggest
from fastcifar.lr_finder.range_test import range_test
from fastcifar.config import LrFinderSettings
from fastcifar.runs.folder import read_config
from fastcifar.device import random_state, seed_everything
from fastcifar.training.state import TrainState, create_state
from tests.helpers import TinyNet

Capture = pytest.CaptureFixture[str]
SHORT = LrFinderSettings(iterations=20, start_lr=1e-4, smoothing=0.2)


def _tiny_state(config: TrainConfig, model: torch.nn.Module | None = None) -> TrainState:
    seed_everything(config.runtime.seed)
    return create_state(config, model=model or TinyNet())


def _curve(lrs: Any, losses: Any, *, diverged_at: float | None = None) -> LrCurve:
    rates, values = tuple(np.asarray(lrs).tolist()), tuple(np.asarray(losses).tolist())
    return LrCurve(settings=LrFinderSettings(), lrs=rates, losses=values, raw=values, diverged_at=diverged_at)


def _everything(state: TrainState) -> dict[str, Any]:
    """What a range test must not change, copied."""
    values = {
        "model": state.classifier.model.state_dict(),
        "gradients": [parameter.grad for parameter in state.classifier.model.parameters()],
        "augmentation": state.classifier.augmentation.state_dict(),
        "training": (state.classifier.model.training, state.classifier.augmentation.training),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random": (get_random_state(), random.getstate(), np.random.get_state()[1]),
        "epoch": (state.epoch, state.train_loader.epoch, state.train_loader.order(state.train_loader.epoch)),
    }
    copied: dict[str, Any] = torch.utils._pytree.tree_map(
        lambda leaf: leaf.clone().numpy() if isinstance(leaf, torch.Tensor) else leaf, values
    )
    return copied


@pytest.mark.parametrize("changes", [{}, {"amp": True}, {"amp": True, "amp_dtype": "float16"}, {"optimizer": "sgd"}])
def test_the_state_is_as_it_was_after_a_test(config: TrainConfig, changes: dict[str, Any]) -> None:
    state = _tiny_state(dataclasses.replace(config, **changes))
    next(iter(state.train_loader))
    before = _everything(state)
    assert len(range_test(state, SHORT).lrs) > 10
    np.testing.assert_equal(_everything(state), before)
    state.close()


def test_the_groups_keep_the_ratios_of_their_rates(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def move(weights: Any, grads: Any, averages: Any, lr: float, *settings: Any) -> None:
        rates.append(lr)

    monkeypatch.setattr("fastcifar.optim.muon._move", move)
    config = dataclasses.replace(config, optimizer="muon", max_lr=0.2, bias_lr=4.0, head_lr=6.0)
    state = _tiny_state(config)
    curve = range_test(state, SHORT)
    filters, vectors, matrices = rates[::3], rates[1::3], rates[2::3]
    assert filters == pytest.approx(curve.lrs[: len(filters)])
    assert vectors == pytest.approx([20 * rate for rate in filters])
    assert matrices == pytest.approx([30 * rate for rate in filters])
    state.close()


def test_the_state_is_as_it_was_after_an_error(config: TrainConfig) -> None:
    state = _tiny_state(config)
    before = _everything(state)

    def stop(lr: float, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        range_test(state, SHORT, on_loss=stop)
    np.testing.assert_equal(_everything(state), before)


@pytest.mark.parametrize(
    ("mode", "expected"), [("exp", np.geomspace(1e-5, 1e-2, 13)), ("linear", np.linspace(1e-5, 1e-2, 13))]
)
def test_the_rates_rise_as_they_should_over_more_than_an_epoch(config: TrainConfig, mode: Any, expected: Any) -> None:
    seen: list[tuple[float, float]] = []
    settings = LrFinderSettings(start_lr=1e-5, end_lr=1e-2, iterations=13, mode=mode, smoothing=0)
    curve = range_test(_tiny_state(config), settings, on_loss=lambda lr, loss: seen.append((lr, loss)))
    assert curve.lrs == pytest.approx(expected)
    assert curve.diverged_at is None
    assert curve.losses == curve.raw, "no smoothing"
    assert seen == list(zip(curve.lrs, curve.raw, strict=True))


def test_the_losses_are_those_of_the_training(config: TrainConfig) -> None:
    """At a constant rate, the test's steps are the first epoch's; smoothing is a running mean."""
    from fastcifar.training.loop import train_epoch

    config = dataclasses.replace(config, max_lr=1e-3, div_factor=1.0, l1=1e-3)
    settings = LrFinderSettings(start_lr=1e-3, end_lr=1.0000001e-3, iterations=12, smoothing=0.25)
    curve = range_test(_tiny_state(config), settings)
    state = _tiny_state(config)
    train_epoch(state)
    loss = float(torch.as_tensor(state.epoch_totals)[0]) / state.epoch_steps
    assert np.mean(curve.raw[:6]) == pytest.approx(loss, rel=1e-5)
    smoothed = [curve.raw[0]]
    for value in curve.raw[1:]:
        smoothed.append(0.25 * value + 0.75 * smoothed[-1])
    assert curve.losses == pytest.approx(smoothed)


def test_the_finder_is_silent(config: TrainConfig, capfd: pytest.CaptureFixture[str]) -> None:
    range_test(_tiny_state(config), SHORT)
    assert capfd.readouterr() == ("", "")


class BreaksDown(TinyNet):
    """NaN from the 13th training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(images) * (math.nan if self.calls > 12 else 1.0)


def test_a_loss_that_is_not_finite_ends_the_test_and_is_left_out(config: TrainConfig) -> None:
    curve = range_test(_tiny_state(config, BreaksDown()), SHORT)
    assert len(curve.lrs) == len(curve.losses) == len(curve.raw) == 12
    assert np.isfinite(curve.losses).all()
    assert curve.diverged_at == pytest.approx(np.geomspace(1e-4, 1, 20)[12])


def test_a_loss_that_explodes_ends_the_test(config: TrainConfig) -> None:
    curve = range_test(_tiny_state(config), LrFinderSettings(start_lr=1e-3, end_lr=1e4, diverge=1.5))
    assert len(curve.lrs) < 100
    assert curve.diverged_at == curve.lrs[-1]
    assert curve.losses[-1] > 1.5 * min(curve.losses)


def test_rates_are_read_off_a_curve() -> None:
    """Flat at 2.4, a smooth fall by 1 in the middle of which lies 1e-3, the lowest at 1e-1, then a steep rise."""
    lrs = np.geomspace(1e-6, 1, 61)  # ten a decade
    exponent = np.log10(lrs)
    losses = 2.4 - 1 / (1 + np.exp(-4 * (exponent + 3)))
    losses[51:] = np.linspace(1.5, 5, 10)
    rates = suggest(_curve(lrs, losses, diverged_at=1.0))
    assert rates.max_lr == rates.minimum_tenth == pytest.approx(1e-2)
    assert rates.max_lr_tenth == pytest.approx(1e-3)
    assert rates.steepest == pytest.approx(1e-3)
    # 5 % of the fall lie where 1 / (1 + exp(-4 x)) is 0.05, 0.736 decades before its middle
    assert rates.min_lr == pytest.approx(10 ** (-3.8))
    # it falls, however little, over 51 points: their middle
    assert rates.valley == pytest.approx(lrs[25])


def test_noise_before_the_fall_is_not_the_fall() -> None:
    """A jump down and back at low rates is steeper than the fall, and lower than where it begins."""
    lrs = np.geomspace(1e-6, 1e-1, 101)
    losses = np.interp(np.log10(lrs), [-6, -3, -2, -1], [2.4, 2.4, 1.6, 1.8])
    losses[20] = 2.0
    rates = suggest(_curve(lrs, losses))
    assert 1e-3 <= rates.fall < rates.steepest <= 1e-2
    assert rates.min_lr <= rates.max_lr
    assert rates.valley == pytest.approx(10**-2.5, rel=0.2)
    assert rates.minimum_tenth == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("losses", "diverged_at", "message"),
    [
        ([2.4, 30.0], 1e-5, "diverged at once: .* 1e-06 .* at rate 1e-05; lower --start-lr"),
        (np.linspace(2.4, 9, 30), 0.5, "diverged at once"),
        ([], 1e-6, "diverged at once"),
        (np.full(100, 2.4), None, "never fell between --start-lr 1e-06 and --end-lr 1"),
        (2.4 - np.linspace(0, 0.01, 100), None, "never fell"),
        ([*(2.4 - np.linspace(0, 0.01, 80)), 30.0], 0.1, "never fell .* until it diverged at rate 0.1; take more"),
    ],
)
def test_a_curve_that_says_nothing_is_an_error(losses: Any, diverged_at: float | None, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        suggest(_curve(np.geomspace(1e-6, 1, 100)[: len(losses)], losses, diverged_at=diverged_at))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("start_lr", 0.0, "positive and finite"),
        ("end_lr", 1e-6, "above start_lr, 1e-06"),
        ("end_lr", math.inf, "finite"),
        ("iterations", 9, "at least 10"),
        ("mode", "cosine", "'exp' or 'linear'"),
        ("smoothing", 1.0, "from 0 up to"),
        ("diverge", 1.0, "above 1"),
    ],
)
def test_a_wrong_setting_is_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value!r}; it must be .*{allowed}"):
        LrFinderSettings(**{field: value})


@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_a_picture_is_drawn_without_pyplots_global_state(tmp_path: Path, mode: Any) -> None:
    lrs = np.geomspace(1e-6, 1, 100)
    curve = _curve(lrs, np.interp(np.log10(lrs), [-6, -1, -0.5, 0], [2.4, 2.4, 1.6, 9.0]), diverged_at=1.0)
    curve = dataclasses.replace(curve, settings=LrFinderSettings(mode=mode))
    draw_lr_curve(curve, suggest(curve), tmp_path / "new" / "curve.png")
    with Image.open(tmp_path / "new" / "curve.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (840, 580)
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00)} <= colors
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def _command(name: str, betons: Path, *more: str) -> list[str]:
    no_report = ["--no-report"] if name == "train" else []  # it would open another network than the small one
    return [name, "--betons", str(betons), "--batch-size", "20", "--device", "cpu", "--amp", *no_report, *more]


def _error(capsys: Capture) -> str:
    """The one line on the standard error stream."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastcifar: ")
    return line


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is the tiny one, and the range test before a training is short."""
    monkeypatch.setattr("fastcifar.training.state.model_from_config", lambda *_: TinyNet())
    monkeypatch.setattr("fastcifar.commands.train.find_rates", functools.partial(find_rates, settings=SHORT))


def test_lr_find_prints_its_suggestions_and_leaves_picture_and_figures(
    betons: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--start-lr", "1e-4", "--end-lr", "0.5", "--iterations", "30", "--smoothing", "0.3", "--recipe", "quick"]
    assert main(_command("lr-find", betons, *flags)) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-lr-find")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_finder.json", "lr_finder.png"]
    text = (folder / "lr_finder.json").read_text()
    kept = json.loads(text)
    assert kept["curve"]["lrs"] == pytest.approx(np.geomspace(1e-4, 0.5, 30)[: len(kept["curve"]["lrs"])])
    assert len(kept["curve"]["losses"]) == len(kept["curve"]["raw"]) == len(kept["curve"]["lrs"])
    assert kept["curve"]["settings"]["smoothing"] == 0.3
    assert (kept["config"]["recipe"], kept["config"]["batch_size"]) == ("quick", 20)
    assert kept["environment"]["data"]["name"] == "synthetic"
    assert str(betons.parent) not in text
    assert str(tmp_path) not in text
    shown = capsys.readouterr()
    assert shown.err == ""
    for name in ("max_lr", "valley", "steepest", "min_lr", "max_lr_tenth"):
        assert format_rate(kept["suggestion"][name], 2) in shown.out
    assert str(Path("runs") / folder.name / "lr_finder.png") in shown.out


def test_a_test_that_diverges_at_once_is_one_line(betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    out = tmp_path / "out"
    flags = ["--start-lr", "1e5", "--end-lr", "1e9", "--out", str(out)]
    assert main(_command("lr-find", betons, *flags)) == 1
    message = _error(capsys)
    assert "diverged at once: from --start-lr 100000 on" in message
    assert message.endswith("lower --start-lr")
    assert not out.exists()


def test_wrong_flags_of_lr_find_are_usage_errors(betons: Path, capsys: Capture) -> None:
    assert main(_command("lr-find", betons, "--recipe", "erra")) == 2
    assert "did you mean era?" in _error(capsys)
    with pytest.raises(SystemExit) as stopped:
        main(_command("lr-find", betons, "--mode", "cosine"))
    assert stopped.value.code == 2


def test_train_takes_the_rates_that_it_finds(betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    runs = {name: tmp_path / name for name in ("found", "given")}
    train = _command("train", betons, "--epochs", "1")
    assert main([*train, "--run-dir", str(runs["found"]), "--max-lr", "find", "--min-lr=find"]) == 0
    assert {"lr_finder.json", "lr_finder.png", "config.json"} <= {path.name for path in runs["found"].iterdir()}
    suggestion = json.loads((runs["found"] / "lr_finder.json").read_text())["suggestion"]
    config = read_config(runs["found"])
    assert config.optim.max_lr == suggestion["max_lr"]
    assert config.optim.max_lr / config.optim.div_factor == pytest.approx(suggestion["min_lr"])
    assert "LRMAX" in capsys.readouterr().out

    rates = ["--max-lr", repr(suggestion["max_lr"]), "--min-lr", repr(suggestion["min_lr"])]
    assert main([*train, "--run-dir", str(runs["given"]), *rates]) == 0
    lines = [json.loads((run / "metrics.jsonl").read_text()) for run in runs.values()]
    for name in ("train_loss", "test_loss", "lr_start", "lr_end"):
        assert lines[0][name] == lines[1][name], "the test left nothing behind"

    assert main([*train, "--run-dir", str(runs["given"]), "--max-lr=find"]) == 1
    assert "holds a run already" in _error(capsys)
    assert not (runs["given"] / "lr_finder.json").exists()


def test_only_one_of_the_two_rates_may_be_found(betons: Path, tmp_path: Path, tiny: None) -> None:
    train = _command("train", betons, "--epochs", "1", "--div-factor", "7")
    assert main([*train, "--run-dir", str(tmp_path / "max"), "--max_lr=find"]) == 0
    found, config = json.loads((tmp_path / "max" / "lr_finder.json").read_text()), read_config(tmp_path / "max")
    assert (config.optim.max_lr, config.optim.div_factor) == (found["suggestion"]["max_lr"], 7)
    assert main([*train, "--run-dir", str(tmp_path / "min"), "--min-lr", "find", "--max-lr", "0.9"]) == 0
    found, config = json.loads((tmp_path / "min" / "lr_finder.json").read_text()), read_config(tmp_path / "min")
    assert config.optim.max_lr == 0.9
    assert config.optim.div_factor == pytest.approx(0.9 / found["suggestion"]["min_lr"])


def test_min_lr_sets_the_first_rate(capsys: Capture) -> None:
    assert main(["train", "--max-lr", "0.01", "--min-lr", "0.002", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["div_factor"] == pytest.approx(5)
    for value in ("0.02", "0", "-1"):
        assert main(["train", "--max-lr", "0.01", f"--min-lr={value}", "--dry-run"]) == 2
        assert "above 0 and at most max_lr, 0.01" in _error(capsys)


@pytest.mark.parametrize("flag", ["--dry-run", "--resume"])
def test_find_goes_with_a_new_run_only(flag: str, betons: Path, tmp_path: Path, tiny: None, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(_command("train", betons, "--epochs", "1", "--run-dir", str(run))) == 0
    capsys.readouterr()
    for find in (["--max-lr", "find"], ["--min-lr", "find"]):
        assert main(["train", *find, *([flag] if flag == "--dry-run" else [flag, str(run)])]) == 2
        assert f"do not go with {flag}" in _error(capsys)


def test_max_lr_find_is_read_in_both_spellings_and_numbers_are_left_alone() -> None:
    assert train_arguments(["--amp", "--max-lr", "find", "--epochs", "3"]) == [
        "--amp",
        "--epochs",
        "3",
        "--find-max-lr",
    ]
    assert train_arguments(["--max-lr=find"]) == ["--find-max-lr"]
    for untouched in (["--max-lr", "0.1", "--amp"], ["--max-lr"], ["--min-lr", "find"], []):
        assert train_arguments(untouched) == untouched


def test_the_commands_do_not_import_torch() -> None:
    code = "import sys, fastcifar.commands.lr_find, fastcifar.commands.train; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
