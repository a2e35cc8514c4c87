"""The environment variables that torchrun, or another launcher, sets for each process that it starts."""

from __future__ import annotations

import os

from fastcifar.errors import ConfigError

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
"""The variables that are numbers."""


def world_size() -> int:
    """Return WORLD_SIZE, the number of processes that a launcher such as torchrun starts; 1 without a launcher.

    Raises:
        ConfigError: WORLD_SIZE is no number.
    """
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int = 0) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name} is {value!r}; torchrun sets it to a number")
    return int(value)


def launched() -> int:
    """Return the number of processes that a launcher such as torchrun has started; 1 without a launcher.

    Raises:
        ConfigError: the launcher's variables are incomplete or no numbers.
    """
    if (count := world_size()) == 1:
        return 1
    numbers = {name: _number(name) for name in NUMBERS}
    if missing := [name for name in (*NUMBERS, "MASTER_ADDR") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {count}, and {', '.join(missing)} are not set: start with torchrun")
    if numbers["RANK"] >= count:
        raise ConfigError(f"RANK is {numbers['RANK']}; it must be less than WORLD_SIZE, {count}")
    return count
