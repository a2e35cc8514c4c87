from __future__ import annotations

import pytest

from fastcifar import create_model
from fastcifar.errors import ConfigError


def test_an_unknown_name_or_option_is_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean custom_resnet"):
        create_model("resnet")
    with pytest.raises(ConfigError, match="does not take these options"):
        create_model("custom_resnet", depth=3)
