from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fastcifar import TrainConfig, get_recipe
from fastcifar.config import SETTINGS, LrFinderSettings
from fastcifar.errors import ConfigError


def test_a_recipe_takes_changes() -> None:
    config = get_recipe("era", epochs=2, data_dir="elsewhere")
    assert (config.epochs, config.data.data_dir) == (2, Path("elsewhere"))


def test_a_configuration_without_a_recipe_has_no_recipes_name() -> None:
    config = TrainConfig()
    assert (config.base_recipe, config.name) == (None, "custom")
    assert config.replace(epochs=3).base_recipe is None
    with pytest.raises(TypeError):
        TrainConfig(base_recipe="era")  # type: ignore[call-arg]


def test_a_recipes_name_stays_with_changes_and_is_set_on_a_copy() -> None:
    config = get_recipe("speedrun").replace(epochs=3).replace(max_lr=0.2)
    assert (config.base_recipe, config.name) == ("speedrun", "speedrun")
    assert config.derived_from(None).name == "custom"
    assert config.name == "speedrun"


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="there is no setting 'epoch': did you mean epochs"):
        get_recipe("era", epoch=3)
    with pytest.raises(ConfigError, match="there is no setting 'base_recipe'"):
        get_recipe("era", base_recipe="quick")


def test_each_settings_name_is_unique_over_all_groups() -> None:
    groups = [getattr(TrainConfig(), group) for group in {group for group, _ in SETTINGS.values()} - {None}]
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    own = [name for name, (group, _) in SETTINGS.items() if group is None]
    assert sorted(names + own) == sorted(SETTINGS)


def test_json_and_back_is_the_same_configuration() -> None:
    config = get_recipe("speedrun", run_dir=Path("runs/x"), target_accuracy=0.9)
    back = TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert back == config
    assert back.name == "speedrun"
    assert TrainConfig.from_json({}) == TrainConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betons": "x"}, "there is no setting 'betons'"),
        ({"epochs": "24"}, "epochs is '24'; it must be a number"),
        ({"widths": [32, "64"]}, "widths is [32, '64']; it must be a tuple, each value a whole number"),
        ({"data_dir": 3}, "data_dir is 3; it must be a path"),
        ({"base_recipe": 3}, "base_recipe is 3; it must be text or None"),
    ],
)
def test_wrong_json_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_json(values)
    assert str(caught.value).startswith(message)


def test_one_of_the_two_ways_to_cuda_graphs_is_enough() -> None:
    run = get_recipe("era", compile=True, cuda_graphs=True)
    assert run.replace(compile_mode="max-autotune-no-cudagraphs").runtime.cuda_graphs
    with pytest.raises(ConfigError, match="compile_mode is 'reduce-overhead'; it must be a mode without its own CUDA"):
        run.replace(compile_mode="reduce-overhead")


def test_a_momentum_that_cycles_cannot_be_captured() -> None:
    assert get_recipe("era").replace(cuda_graphs=True).runtime.cuda_graphs
    with pytest.raises(ConfigError, match="cuda_graphs is True; it must be False if the momentum cycles"):
        get_recipe("course-e").replace(cuda_graphs=True)


def test_the_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("era").epochs = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("era").optim.max_lr = 3  # type: ignore[misc]


@pytest.mark.parametrize(("field", "value"), [("end_lr", 1e-7), ("iterations", 9), ("diverge", 1.0), ("mode", "log")])
def test_the_range_tests_settings_are_checked(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value!r}; it must be "):
        LrFinderSettings(**{field: value})  # type: ignore[arg-type]
