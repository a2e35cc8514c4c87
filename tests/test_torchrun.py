from __future__ import annotations

from collections.abc import Callable

import pytest

from fastcifar import torchrun
from fastcifar.commands.shared import require_one_process
from fastcifar.errors import ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables of a launcher, and removes those that are not given."""

    def set_variables(**values: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_without_a_launcher_there_is_one_process(launcher: Callable[..., None]) -> None:
    launcher()
    assert torchrun.launched() == 1
    launcher(RANK="1", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="host", MASTER_PORT="29400")
    assert torchrun.launched() == 2


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; torchrun sets it to a number"),
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_PORT, MASTER_ADDR are not set: start with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'; torchrun sets it to a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "host", "MASTER_PORT": "1"},
            "RANK is 2; it must be less than WORLD_SIZE, 2",
        ),
    ],
)
def test_a_launcher_that_is_incomplete_is_one_error(
    launcher: Callable[..., None], variables: dict[str, str], error: str
) -> None:
    launcher(**variables)
    with pytest.raises(ConfigError, match=error):
        torchrun.launched()


def test_a_command_that_trains_in_one_process_refuses_to_be_one_of_several(launcher: Callable[..., None]) -> None:
    for variables in ({}, {"WORLD_SIZE": "1"}):
        launcher(**variables)
        require_one_process()
    for value, error in (("2", "start it without torchrun"), ("two", "torchrun sets it to a number")):
        launcher(WORLD_SIZE=value)
        with pytest.raises(ConfigError, match=error):
            require_one_process()
