from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fastcifar import TrainConfig, get_recipe
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.recipes import RECIPES


def test_era_is_the_24_epochs_of_the_exercise() -> None:
    config = get_recipe("era")
    assert (config.epochs, config.data.batch_size) == (24, 512)
    assert config.optim.pct_start == pytest.approx(5 / 24)
    assert (config.optim.div_factor, config.optim.final_div_factor) == (10, 1), "the rate falls back to LRMIN and not below"
    assert (config.augment.padding, config.augment.padding_mode, config.augment.flip_p, config.augment.cutout) == (4, "constant", 0.5, 8)
    assert not config.runtime.amp
    assert not config.runtime.compile


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_called_as_it_is_named_and_tells_its_command(name: str) -> None:
    assert get_recipe(name).recipe == name
    assert f"fastcifar train --recipe {name}" in (RECIPES[name].__doc__ or "")


def test_a_recipe_takes_changes() -> None:
    config = get_recipe("era", epochs=2, betons="elsewhere")
    assert (config.epochs, config.data.data_dir) == (2, Path("elsewhere"))


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean quick"):
        get_recipe("quik")
    with pytest.raises(ConfigError, match="unknown setting epoch"):
        get_recipe("era", epoch=3)


def test_flipping_at_random_and_alternately_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"flip_p is 0.5; it must be 0 if"):
        get_recipe("speedrun", flip_p=0.5)


def test_json_and_back_is_the_same_configuration() -> None:
    config = get_recipe("era", run_dir=Path("runs/x"), target=0.9)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


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
        ("target", 90.0),
    ],
)
def test_a_wrong_value_is_refused_naming_field_value_and_what_is_allowed(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(get_recipe("era"), **{field: value})
    assert str(caught.value).startswith(f"{field} is {value!r}; it must be ")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FastCifarError)


def test_one_of_the_two_ways_to_cuda_graphs_is_enough() -> None:
    run = get_recipe("era", compile=True, cuda_graphs=True)
    assert dataclasses.replace(run, compile_mode="max-autotune-no-cudagraphs").cuda_graphs
    with pytest.raises(ConfigError, match="compile_mode is 'reduce-overhead'; it must be one without CUDA graphs"):
        dataclasses.replace(run, compile_mode="reduce-overhead")


def test_a_momentum_that_cycles_is_not_recorded() -> None:
    assert dataclasses.replace(get_recipe("era"), cuda_graphs=True).cuda_graphs
    with pytest.raises(ConfigError, match="cuda_graphs is True; it must be off where the momentum cycles"):
        dataclasses.replace(get_recipe("course-e"), cuda_graphs=True)


def test_the_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("era").epochs = 3  # type: ignore[misc]
