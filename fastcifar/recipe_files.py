"""Recipe files: the settings of a run as TOML.

extends = "speedrun"  # a recipe or another file; if it is left out, the defaults of `TrainConfig`
epochs = 12

[optim]  # a setting may stand in its group, or above all groups
max_lr = 0.05
"""

from __future__ import annotations

import itertools
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastcifar.config import GROUPS, SETTINGS, TrainConfig
from fastcifar.errors import ConfigError, closest
from fastcifar.files import atomic_write

SUFFIX = ".toml"
MACHINE_SETTINGS = ("run_dir", "data_dir", "device", "workers")
"""Settings that name places and devices of one machine, which files do not get. They may be added by hand."""


def read_recipe_file(path: Path, get_recipe: Callable[[str], TrainConfig]) -> TrainConfig:
    """Return the configuration that a recipe file describes.

    Args:
        path: the file.
        get_recipe: returns the configuration of the recipe, by name, that a file extends.

    Raises:
        ConfigError: a file cannot be read, is not TOML, extends itself, or has an unknown setting or a value that is
            not allowed. The message has the file's name.
    """
    return _read(path, get_recipe, ())


def _read(path: Path, get_recipe: Callable[[str], TrainConfig], extended_by: tuple[Path, ...]) -> TrainConfig:
    if path.resolve() in extended_by:
        raise ConfigError(f"{path}: extends itself; remove one `extends`")
    values = _parse(path)
    base = values.pop("extends", None)
    try:
        if base is None:
            config = TrainConfig()
        elif not isinstance(base, str):
            raise ConfigError(f"extends is {base!r}; it must be the name of a recipe, or of another file")
        elif base.endswith(SUFFIX):
            config = _read(path.parent / os.path.expanduser(base), get_recipe, (*extended_by, path.resolve()))
        else:
            config = get_recipe(base)
        return config.replace(**dict(_settings(values)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: this recipe file cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path}: is not a TOML file ({error})") from error


def _settings(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the settings of a file by name; "None" stands for the None that TOML lacks."""
    seen = set()
    for group, written, value in _entries(values):
        name = written.replace("-", "_")
        if group is not None and name in SETTINGS and SETTINGS[name][0] != group:
            raise ConfigError(f"[{group}] has {name}, which is not in this group; move it above all groups")
        if name in seen:
            raise ConfigError(f"{name} is given twice")
        seen.add(name)
        optional = name in SETTINGS and type(None) in getattr(SETTINGS[name][1], "__args__", ())
        yield name, None if optional and value == "None" else value


def _entries(values: dict[str, Any]) -> Iterator[tuple[str | None, str, Any]]:
    for name, value in values.items():
        if not isinstance(value, dict):
            yield None, name, value
        elif name not in GROUPS:
            raise ConfigError(f"there is no group [{name}]: did you mean [{closest(name, GROUPS)}]?")
        else:
            yield from ((name, setting, given) for setting, given in value.items())


def format_recipe(config: TrainConfig) -> str:
    """Return a configuration as the text of a recipe file, with every setting that does not depend on the machine.

    It extends no recipe, so that it means the same when a recipe changes.
    """
    rows = [(group, _row(name, value)) for name, group, value in _saved(config)]
    lines = [f"# the settings of {json.dumps(config.name)}"]
    for group, members in itertools.groupby(rows, key=lambda row: row[0]):
        lines += ["", *([] if group is None else [f"[{group}]"]), *(row for _, row in members)]
    return "\n".join(lines) + "\n"


def write_recipe(path: Path, config: TrainConfig) -> None:
    """Write a configuration as a recipe file, whose name must end in .toml.

    Raises:
        ConfigError: it has another name.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: a recipe file's name must end in {SUFFIX}")
    with atomic_write(path) as temporary:
        temporary.write_text(format_recipe(config), encoding="utf-8")


def _saved(config: TrainConfig) -> Iterator[tuple[str, str | None, Any]]:
    values = config.to_json()
    for name, (group, _) in SETTINGS.items():
        if name not in MACHINE_SETTINGS and values[name] is not None:  # all defaults that can be None are None
            yield name, group, values[name]


def _row(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"  # JSON's numbers, text and lists are TOML's, too
