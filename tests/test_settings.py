from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastcifar import TrainConfig, get_recipe
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.settings import DataSettings, OptimSettings, RuntimeSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("workers", 0),
        ("val_fraction", 1.0),
        ("val_fraction", -0.1),
        ("dropout", 1.0),
        ("padding", 32),
        ("padding_mode", "wrap"),
        ("flip_p", -0.5),
        ("cutout", 40),
        ("resize_sizes", (4,)),
        ("resize_fractions", (0.5,)),
        ("freeze_at", (0.5,)),
        ("freeze_at", (1.5,)),
        ("tta", "rotate"),
        ("tta_fraction", 1.5),
        ("head_init_std", 0.0),
        ("norm_momentum", 0.0),
        ("logit_scale", 0.0),
        ("widths", (32, 0, 64)),
        ("label_smoothing", 1.0),
        ("head_lr", 0.0),
        ("on_nonfinite", "ignore"),
        ("max_skipped", 0),
        ("checkpoint_every", 0),
        ("shift_limit", -0.1),
        ("rotate_p", 2.0),
        ("optimizer", "lion"),
        ("l1", -1.0),
        ("momentum", 1.0),
        ("peak_momentum", -0.5),
        ("max_lr", 0.0),
        ("max_lr", float("nan")),
        ("div_factor", 0.0),
        ("final_div_factor", -1.0),
        ("pct_start", 1.0),
        ("weight_decay", -1e-4),
        ("seed", -1),
        ("amp_dtype", "float64"),
        ("compile_mode", "fast"),
        ("epochs", 0),
        ("target_accuracy", 90.0),
    ],
)
def test_a_wrong_value_is_refused_naming_field_value_and_allowed_values(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        get_recipe("era", **{field: value})
    assert str(caught.value).startswith(f"{field} is {value!r}; it must be ")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FastCifarError)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_lr", "1e-3", "a number"),
        ("max_lr", None, "a number"),
        ("max_lr", True, "a number"),
        ("epochs", None, "a number"),
        ("batch_size", 16.5, "a whole number"),
        ("batch_size", float("inf"), "a whole number"),
        ("batch_size", True, "a whole number"),
        ("batch_size", "16", "a whole number"),
        ("workers", 2.5, "a whole number or None"),
        ("amp", 1, "True or False"),
        ("amp", "yes", "True or False"),
        ("device", None, "text"),
        ("optimizer", None, "one of 'adam', 'sgd', 'muon'"),
        ("optimizer", ["adam"], "one of 'adam', 'sgd', 'muon'"),
        ("data_dir", None, "a path"),
        ("padding_mode", np.zeros(2), "one of 'constant', 'reflect', 'mean'"),
        ("freeze", "prep", "a tuple, each value text"),
        ("widths", [64.5], "a tuple, each value a whole number"),
        ("widths", 64, "a tuple, each value a whole number"),
    ],
)
def test_a_wrong_type_is_refused_naming_field_value_and_the_type(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig().replace(**{field: value})
    assert str(caught.value) == f"{field} is {value!r}; it must be {allowed}"


def test_a_group_checks_itself_without_a_configuration() -> None:
    with pytest.raises(ConfigError, match="max_lr is '1e-3'; it must be a number"):
        OptimSettings(max_lr="1e-3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="run_dir is 3; it must be a path or None"):
        TrainConfig(run_dir=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="optim is None; it must be OptimSettings"):
        TrainConfig(optim=None)  # type: ignore[arg-type]


def test_values_that_mean_the_same_are_converted_to_the_type_of_the_setting() -> None:
    changes = {"max_lr": 1, "widths": [32, 64.0, np.int64(64)], "run_dir": "runs/x", "workers": None}
    for config in (TrainConfig().replace(**changes), get_recipe("era", **changes)):
        assert OptimSettings(max_lr=1).max_lr == config.optim.max_lr == 1
        assert (config.model.widths, config.run_dir) == ((32, 64, 64), Path("runs/x"))
        assert [type(width) for width in config.model.widths] == [int] * 3
    data = DataSettings(batch_size=16.0, data_dir="~/x", val_fraction=np.float32(0.5))  # type: ignore[arg-type]
    assert (data.batch_size, data.data_dir, data.val_fraction) == (16, Path.home() / "x", 0.5)
    assert (type(data.batch_size), type(data.val_fraction)) == (int, float)
    assert RuntimeSettings(amp=np.True_).amp is True  # type: ignore[arg-type]
    assert DataSettings(data_dir="~nobody-of-that-name/x").data_dir == Path("~nobody-of-that-name/x")  # type: ignore[arg-type]
    assert TrainConfig(run_dir="runs/x").run_dir == Path("runs/x")  # type: ignore[arg-type]
    json.dumps(TrainConfig().replace(epochs=np.float64(2), seed=np.int64(3)).to_json())


def test_evaluation_batches_are_as_large_as_training_batches_unless_set() -> None:
    assert DataSettings(batch_size=100).test_batch_size == 100
    assert DataSettings(batch_size=100, eval_batch_size=200).test_batch_size == 200
