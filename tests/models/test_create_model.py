from __future__ import annotations

import pytest
import torch

from fastcifar import create_model
from fastcifar.errors import ConfigError
from fastcifar.models import MODELS


def test_an_unknown_name_or_option_is_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean custom_resnet"):
        create_model("resnet")
    with pytest.raises(
        ConfigError, match=r"model dilated_cnn has no option depth; its options are num_classes, dropout$"
    ):
        create_model("dilated_cnn", depth=3)
    with pytest.raises(ConfigError, match=r"model speed_cnn does not take these options: .*int"):
        create_model("speed_cnn", widths=3)


def test_a_network_of_ones_own_may_take_any_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "any", lambda **options: torch.nn.Linear(2, options["depth"]))
    assert create_model("any", depth=3).out_features == 3
