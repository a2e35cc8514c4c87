from __future__ import annotations

import functools
import itertools
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, create_loader, fit, fit_epochs, get_recipe
from fastcifar.errors import CheckpointError, FastCifarWarning, StoppedError
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint, save_checkpoint
from fastcifar.runs.read import read_metrics
from fastcifar.runs.results import EpochResult, StepProgress
from fastcifar.training.loop import OnStep
from fastcifar.training.resume import restore
from fastcifar.training.signals import GracefulStop
from fastcifar.training.state import TrainState, create_state
from tests.helpers import TinyNet, tiny_state, train_tiny, write_pair


@pytest.mark.parametrize("amp", [False, True])
def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_run(
    config: TrainConfig, tmp_path: Path, amp: bool
) -> None:
    config = config.replace(amp=amp)
    whole = tiny_state(config.replace(run_dir=tmp_path / "whole"))
    expected = fit(whole)

    interrupted = config.replace(run_dir=tmp_path / "resumed")
    first = fit_epochs(tiny_state(interrupted))
    next(first)
    first.close()
    torch.manual_seed(12345)  # another process has other random numbers
    resumed = create_state(interrupted, model=TinyNet())
    restore(tmp_path / "resumed", resumed)
    results = fit(resumed)

    assert [result.epoch for result in results] == [2, 3]
    assert [result.train_loss for result in results] == [result.train_loss for result in expected[1:]]
    for name, value in whole.classifier.model.state_dict().items():
        assert torch.equal(value, resumed.classifier.model.state_dict()[name]), name
    assert [result.epoch for result in read_metrics(tmp_path / "resumed")] == [1, 2, 3]


def _stop_after(steps: int, stop: GracefulStop) -> OnStep:
    """Ask for a stop when that many steps were seen."""
    seen = itertools.count(1)

    def on_step(_: StepProgress) -> None:
        if next(seen) == steps:
            stop.signal = signal.SIGTERM

    return on_step


@functools.cache
def _whole_run(recipe: str, **shared: Any) -> tuple[TrainState, list[EpochResult]]:
    whole = create_state(get_recipe(recipe, **shared))
    return whole, fit(whole)


@pytest.mark.parametrize("recipe", ["era", "era-fast", "speedrun"])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("steps", [4, 5], ids=["at an epoch's end", "in its middle"])
def test_a_stopped_and_resumed_run_ends_with_the_weights_of_the_uninterrupted_run(
    betons: Path, tmp_path: Path, recipe: str, amp: bool, steps: int
) -> None:
    shared: dict[str, Any] = {"data_dir": betons, "batch_size": 50, "epochs": 1.5, "amp": amp}
    whole, expected = _whole_run(recipe, **shared)
    config, stop = get_recipe(recipe, run_dir=tmp_path, **shared), GracefulStop()
    with pytest.raises(StoppedError) as stopped:
        fit(config, on_step=_stop_after(steps, stop), stop=stop)
    assert stopped.value.exit_code == 143
    torch.manual_seed(12345)
    resumed = create_state(config)
    assert restore(tmp_path, resumed) is None
    epoch = (steps - 1) // 4  # an epoch whose evaluation is still to come is not done
    assert (resumed.epochs_done, resumed.epoch_steps_done) == (epoch, steps - 4 * epoch)
    results = fit(resumed)
    for result, reference in zip(results, expected[-len(results) :], strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "tta_accuracy"):
            assert getattr(result, name) == getattr(reference, name), name
    for name, value in whole.classifier.model.state_dict().items():
        assert torch.equal(value, resumed.classifier.model.state_dict()[name]), name
    assert [result.epoch for result in read_metrics(tmp_path)] == [1, 2]


def _flip_a_bit(path: Path) -> None:
    """Flip a bit of a tensor, in a new file, since other checkpoints may be links to the old one."""
    weight = read_checkpoint(path)["model"]["1.running_mean"]
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 1] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path)
    train_tiny(run)
    last, previous = checkpoint_path(tmp_path, "last"), checkpoint_path(tmp_path, "previous")
    _flip_a_bit(last)
    state = tiny_state(run)
    damage = restore(tmp_path, state)
    assert str(damage).startswith(f"{last}: damaged")
    assert state.epochs_done == 2
    assert [result.epoch for result in fit_epochs(state)] == [3]
    assert [result.epoch for result in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_checkpoint(last)["progress"]["epochs_done"] == 3
    assert last.with_name("damaged.pt").exists()
    for path in (last, previous):
        if path.exists():
            _flip_a_bit(path)
    with pytest.raises(CheckpointError, match=re.escape(f"{last}: damaged")):
        restore(tmp_path, tiny_state(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 4}, "3 for --epochs, not 4; resume it unchanged"),
        ({"batch_size": 20}, "32 for --batch-size"),
        ({"max_lr": 0.1}, ".* for --max-lr, not 0.1"),
        ({"seed": 9}, "0 for --seed"),
    ],
)
def test_a_run_is_resumed_only_with_the_settings_it_was_started_with(
    config: TrainConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = config.replace(run_dir=tmp_path / "run")
    next(fit_epochs(tiny_state(run)))
    other = create_state(run.replace(**change), model=TinyNet())
    with pytest.raises(CheckpointError, match=rf"last\.pt: the run was started with {message}"):
        restore(tmp_path / "run", other)


def test_a_run_of_a_larger_machine_is_resumed_and_evaluated_with_the_cores_of_this_one(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config.replace(epochs=2, model="dilated_cnn", run_dir=tmp_path, workers=2)
    monkeypatch.setattr("fastcifar.data.create.decoding_threads", lambda: 2)
    next(fit_epochs(run))
    monkeypatch.setattr("fastcifar.data.create.decoding_threads", lambda: 1)
    message = "workers is 2, and this process may use 1: decoding with 1"
    with pytest.warns(FastCifarWarning, match=message):
        state = create_state(run)
    restore(tmp_path, state)
    assert [result.epoch for result in fit(state)] == [2]
    with pytest.warns(FastCifarWarning, match=message):
        assert evaluate_checkpoint(tmp_path, device="cpu").samples == 90


def test_a_run_is_not_resumed_with_other_data(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path / "run")
    next(fit_epochs(tiny_state(run)))
    betons = write_pair(tmp_path / "betons", train=200, test=90, seed=1)
    other = create_state(run.replace(data_dir=betons), model=TinyNet())
    with pytest.raises(CheckpointError, match=rf"last\.pt: was trained on other data than that in {betons}; name"):
        restore(tmp_path / "run", other)


def test_a_run_is_not_resumed_with_another_network(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path / "run")
    next(fit_epochs(tiny_state(run)))
    other = create_state(run, model=nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    with pytest.raises(CheckpointError, match=r"last\.pt: does not fit this network \(Error\(s\) in loading"):
        restore(tmp_path / "run", other)


def test_restoring_an_undamaged_checkpoint_moves_no_file(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path / "run")
    next(fit_epochs(tiny_state(run)))
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert restore(tmp_path / "run", tiny_state(run)) is None
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_is_not_resumed_with_a_loader_of_other_images(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path / "run")
    next(fit_epochs(tiny_state(run)))
    other = tiny_state(run)
    other.train_loader = create_loader(
        run.data.data_dir / "train.beton", batch_size=32, train=True, indices=np.arange(100)
    )
    with pytest.raises(CheckpointError, match=r"last\.pt: the run was started with 18 for the number of steps, not 9"):
        restore(tmp_path / "run", other)


@pytest.mark.parametrize("old_checkpoint", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("bfloat16", "float16", "The run was computed in {} so far, and goes on in float16, with a new loss scale"),
        ("float16", "bfloat16", "The run was computed in float16 so far, and goes on in bfloat16"),
        ("float16", "float16", None),
    ],
)
def test_a_run_resumes_in_another_precision_and_says_so(
    config: TrainConfig, tmp_path: Path, before: Any, after: Any, note: str | None, old_checkpoint: bool
) -> None:
    first = tiny_state(config.replace(amp=True, amp_dtype=before, run_dir=tmp_path))
    first.scaler.load_state_dict({"scale": 128.0, "_growth_tracker": 0})
    training = fit_epochs(first)
    next(training)
    training.close()
    if old_checkpoint:  # of a version that did not name the precision
        values = read_checkpoint(checkpoint_path(tmp_path, "last"))
        del values["precision"]
        save_checkpoint(checkpoint_path(tmp_path, "last"), values)
        note = note.format("another precision") if note and after == "float16" else None

    state = tiny_state(config.replace(amp=True, amp_dtype=after, run_dir=tmp_path))
    assert restore(tmp_path, state) is None
    expected = {"bfloat16": {}, "float16": {"scale": 128.0 if before == after else 2.0**16}}[after]
    assert expected.items() <= state.scaler.state_dict().items()
    assert state.notes == ([note.format(before)] if note else [])
    assert next(fit_epochs(state)).train_loss < 10


def test_a_checkpoint_of_a_run_with_cuda_graphs_is_resumed_without_them(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path)
    first = tiny_state(run)
    first.optimizer.param_groups[0]["capturable"] = True
    next(fit_epochs(first))
    resumed = tiny_state(run)
    restore(tmp_path, resumed)
    assert not resumed.optimizer.param_groups[0]["capturable"], "torch would warn in each step"
