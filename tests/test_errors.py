from __future__ import annotations

import fastcifar.errors
from fastcifar.errors import ConfigError, FastCifarError


def test_the_documentation_shows_every_error() -> None:
    documentation = fastcifar.errors.__doc__
    assert documentation is not None
    children = FastCifarError.__subclasses__()
    assert len(children) == documentation.count("── ")
    for child in children:
        assert f"── {child.__name__} " in documentation


def test_a_wrong_setting_is_also_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert (ConfigError.exit_code, FastCifarError.exit_code) == (2, 1)
