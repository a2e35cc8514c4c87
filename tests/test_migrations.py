"""A run folder of fastcifar 0.1, written by hand, is read and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, create_model, fit, load_checkpoint
from fastcifar.cli import main
from fastcifar.config import SETTINGS
from fastcifar.data.manifest import read_manifest
from fastcifar.device import get_random_state
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.migrations import migrate_checkpoint, migrate_config, migrate_result
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint, state_sha256
from fastcifar.runs.read import read_metrics
from fastcifar.runs.record import read_record
from fastcifar.training.resume import restore
from fastcifar.training.state import TrainState, create_state
from tests.helpers import TinyNet
from tests.runs.examples import ENVIRONMENT

CONFIG_0_1: dict[str, Any] = {
    "betons": "betons", "batch_size": 50, "eval_batch_size": None, "workers": None, "resident": True,
    "val_fraction": 0.0, "verify": True,
    "model": "dilated_cnn", "conv_bias": False, "layer2_residual": False, "dropout": 0.0, "logit_scale": 1.0,
    "widths": [],
    "whiten": False, "dirac": False, "freeze_norm_scale": False, "norm_momentum": 0.1, "head_std": 0.5,
    "freeze": ["block1"], "freeze_after": [0.25],
    "padding": 2, "padding_mode": "reflect", "flip_p": 0.0, "cutout": 0, "shift_scale_rotate_p": 0.0,
    "shift_limit": 0.05, "scale_limit": 0.05, "rotate_limit": 5.0, "rotate_p": 0.0, "stock_kornia": False,
    "small_sizes": [16], "small_shares": [0.25], "alternate_flip": True, "tta": "flip", "tta_share": 0.25,
    "optimizer": "muon", "max_lr": 0.24, "bias_lr": 154.0, "head_lr": 670.0, "div_factor": 10.0,
    "final_div_factor": 100.0, "pct_start": 0.25, "weight_decay": 0.0, "l1": 0.0, "momentum": 0.85,
    "peak_momentum": None, "muon_momentum": 0.6, "label_smoothing": 0.0, "on_nonfinite": "stop", "max_skipped": 10,
    "device": "cpu", "seed": 3, "amp": False, "amp_dtype": "auto", "compile": False, "compile_mode": "default",
    "cuda_graphs": False, "channels_last": True, "deterministic": False,
    "recipe": "speedrun", "epochs": 2, "target": 0.9, "checkpoint_every": 2, "run_dir": "runs/old",
}  # fmt: skip
RESULT_0_1: dict[str, Any] = {
    "epoch": 1, "epochs": 2, "train_loss": float("nan"), "train_accuracy": 0.4, "skipped_steps": 4, "test_loss": 0.9,
    "test_accuracy": 0.5, "tta_accuracy": None, "held_out": "test", "lr_start": 0.02, "lr_end": 0.09,
    "train_seconds": 3.5, "eval_seconds": 0.5, "tta_seconds": None, "images_per_second": 130.0,
    "total_train_seconds": 3.5, "warmup_seconds": 0.25, "best_accuracy": 0.5, "best_epoch": 1,
    "peak_memory_bytes": 1127170048,
}  # fmt: skip


def _optimizer_0_1(model: nn.Module) -> dict[str, Any]:
    """The state of 0.1's Muon for a network whose parameters form one group of each kind."""
    parameters = list(model.parameters())
    dimensions: list[list[int]] = [
        [index for index, each in enumerate(parameters) if each.dim() == 4],
        [index for index, each in enumerate(parameters) if each.dim() == 1],
        [index for index, each in enumerate(parameters) if each.dim() == 2],
    ]
    sgd = {"momentum": 0.85, "weight_decay": 0.0, "orthogonal": False, "length": 1.0, "lr": 9.0}
    groups = [
        {"momentum": 0.6, "weight_decay": 0.0, "orthogonal": True, "length": 1.0, "lr": 0.09, "lr_ratio": 1.0},
        {"lr_ratio": 154.0 / 0.24, **sgd},
        {"lr_ratio": 670.0 / 0.24, **sgd},
    ]
    return {
        "state": {index: {"momentum_buffer": torch.full_like(each, 0.5)} for index, each in enumerate(parameters)},
        "param_groups": [{**group, "params": indices} for group, indices in zip(groups, dimensions, strict=True)],
    }


def _write_run_0_1(run: Path, betons: Path, model: nn.Module, **settings: Any) -> Path:
    """Write the folder of a run that was stopped after 2 of the 4 steps of its second epoch; return its path."""
    manifest = read_manifest(betons / "train.beton")
    config = {**CONFIG_0_1, "betons": str(betons), "run_dir": str(run), **settings}
    values: dict[str, Any] = {
        "format_version": 3,
        "config": config,
        "class_names": list(manifest.class_names),
        "image_shape": list(manifest.image_shape),
        "content_sha256": manifest.content_sha256,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "model": model.state_dict(),
        "optimizer": _optimizer_0_1(model),
        "scaler": {},
        "random": get_random_state(),
        "schedule": {"total_steps": 8, "step": 6},
        "epoch": 1,
        "epoch_steps": 2,
        "epoch_totals": torch.tensor([5.0, 20.0, 1.0]),
        "epoch_seconds": 1.5,
        "train_seconds": 3.5,
        "best": {"accuracy": 0.5, "epoch": 1},
    }
    values["sha256"] = state_sha256(values)
    (run / "checkpoints").mkdir(parents=True)
    torch.save(values, checkpoint_path(run, "last"))
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (run / "metrics.jsonl").write_text(json.dumps(RESULT_0_1) + "\n")
    return run


@pytest.fixture
def run(betons: Path, tmp_path: Path) -> Path:
    return _write_run_0_1(tmp_path / "run", betons, create_model("dilated_cnn"))


def _tiny_state_0_1(betons: Path, run: Path) -> TrainState:
    """The state of a run of `TinyNet`, in whose folder 0.1 left its files."""
    _write_run_0_1(run, betons, TinyNet(), freeze=[], freeze_after=[])
    return create_state(read_record(run).config, model=TinyNet())


def test_every_setting_of_0_1_has_a_current_name() -> None:
    assert len(migrate_config(CONFIG_0_1)) == len(CONFIG_0_1)
    assert migrate_config(CONFIG_0_1).keys() - SETTINGS.keys() == {"base_recipe"}


def test_a_record_of_0_1_is_read_under_todays_names(run: Path, betons: Path) -> None:
    record = read_record(run)
    config, (result,) = record.config, record.results
    assert (config.base_recipe, config.data.data_dir, config.data.cache_on_device) == ("speedrun", betons, True)
    assert (config.target_accuracy, config.init.head_init_std) == (0.9, 0.5)
    assert (config.freezing.freeze, config.freezing.freeze_at) == (("block1",), (0.25,))
    assert (config.resize.resize_sizes, config.resize.resize_fractions) == ((16,), (0.25,))
    assert (config.augment.alternate_flip, config.tta.tta, config.tta.tta_fraction) == (True, "flip", 0.25)
    assert (result.eval_split, result.skipped_steps, result.best_accuracy) == ("test", 4, 0.5)


def test_a_checkpoint_of_0_1_is_read_under_todays_names(run: Path) -> None:
    values = read_checkpoint(checkpoint_path(run, "last"))
    progress = values["progress"]
    assert progress.pop("epoch_totals").tolist() == [5.0, 20.0, 1.0]
    assert progress == {
        "total_steps": 8, "step": 6, "epochs_done": 1, "epoch_steps_done": 2, "epoch_seconds": 1.5,
        "train_seconds": 3.5, "best_accuracy": 0.5, "best_epoch": 1,
    }  # fmt: skip
    assert [group["use_muon"] for group in values["optimizer"]["param_groups"]] == [True, False, False]
    assert values["optimizer"]["param_groups"][1]["lr_scale"] == 154.0 / 0.24
    assert TrainConfig.from_json(values["config"]) == read_record(run).config


LATER_SETTINGS = {
    "loader", "dynamics", "subset", "sampler", "class_weights", "compress_gradients", "sync_batchnorm", "depth",
}  # fmt: skip
"""Settings that version 0.1 did not have."""


def test_a_checkpoint_of_0_1_has_the_keys_of_todays(betons: Path, tmp_path: Path) -> None:
    with _tiny_state_0_1(betons, tmp_path / "run") as state:
        today = state.state_dict()
    values = read_checkpoint(checkpoint_path(tmp_path / "run", "last"))
    assert values.keys() - {"format_version"} == today.keys() - {"precision", "recorder"}  # which 0.1 lacks
    for part in ("progress", "random", "config", "scaler", "model"):
        assert values[part].keys() == today[part].keys() - LATER_SETTINGS, part
    for old, new in zip(values["optimizer"]["param_groups"], today["optimizer"]["param_groups"], strict=True):
        assert old.keys() == new.keys()


def test_a_network_of_0_1_is_loaded_and_evaluated(run: Path, betons: Path, tmp_path: Path) -> None:
    weights = torch.load(checkpoint_path(run, "last"), weights_only=True)["model"]
    model, config = load_checkpoint(run)
    assert config.name == "speedrun"
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert evaluate_checkpoint(run, device="cpu").samples == 90
    assert main(["summary", "--run", str(run)]) == 0
    assert main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "export")]) == 0


def test_a_run_of_0_1_is_resumed(betons: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _tiny_state_0_1(betons, run) as state:
        assert restore(run, state) is None
        assert (state.epochs_done, state.epoch_steps_done, state.train_seconds) == (1, 2, 3.5)
        assert [value.item() for value in state.epoch_totals] == [5.0, 20.0, 1.0]
        for parameter in state.classifier.model.parameters():
            buffer = state.optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(buffer, torch.full_like(buffer, 0.5))
        (result,) = fit(state)
    assert (result.epoch, result.skipped_steps) == (2, 1)
    assert [each.epoch for each in read_metrics(run)] == [1, 2]
    written = (run / "config.json").read_text() + (run / "metrics.jsonl").read_text()
    assert not {"betons", "held_out", "small_sizes"} & {word for word in written.split('"') if word.isidentifier()}
    assert read_checkpoint(checkpoint_path(run, "last"))["format_version"] == 4


def test_only_old_names_change_and_missing_keys_stay_missing() -> None:
    assert migrate_config({}) == migrate_result({}) == {}
    assert migrate_config({"target": None, "unknown": 1}) == {"target_accuracy": None, "unknown": 1}
    today = TrainConfig(epochs=2).to_json()
    assert migrate_config(today) == today
    assert migrate_result({"held_out": "validation", "epoch": 1}) == {"eval_split": "validation", "epoch": 1}


def test_migrating_a_checkpoint_leaves_the_given_values_unchanged(run: Path) -> None:
    values = torch.load(checkpoint_path(run, "last"), weights_only=True)
    digest = state_sha256(values)
    migrate_checkpoint(values)
    assert state_sha256(values) == digest


def test_an_incomplete_checkpoint_of_0_1_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint_path(run, "last")
    values = torch.load(path, weights_only=True)
    del values["schedule"], values["sha256"]
    torch.save({**values, "sha256": state_sha256(values)}, path)
    assert main(["evaluate", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "last.pt: not a checkpoint of this version of fastcifar ('schedule')" in line
