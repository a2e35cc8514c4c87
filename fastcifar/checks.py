"""Checks of dataclasses of settings: the type of every field, and rules for its value."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastcifar.errors import ConfigError

Rule = tuple[Callable[[Any], bool], str]
"""A test that allowed values pass, and the allowed values in words."""

AT_LEAST_1: Rule = (lambda value: value >= 1, "a whole number, at least 1")
POSITIVE: Rule = (lambda value: 0 < value < math.inf, "positive and finite")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "0 or more, and finite")
FRACTION: Rule = (lambda value: 0 <= value <= 1, "from 0 to 1")
ABOVE_0_TO_1: Rule = (lambda value: 0 < value <= 1, "above 0 and at most 1")
SUBSET: Rule = (
    lambda value: 0 < value < 1 or (1 <= value < math.inf and float(value).is_integer()),
    "a fraction above 0 and below 1, or a whole number of images",
)
BELOW_1: Rule = (lambda value: 0 <= value < 1, "from 0 up to, but not including, 1")

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}


def each(rule: Rule) -> Rule:
    """Return the rule for a tuple whose elements all follow `rule`."""
    return lambda values: all(map(rule[0], values)), f"{rule[1]}, for each value"


def check(settings: Any, **rules: Rule) -> None:
    """Check the type of every field of a dataclass, and some fields against rules, unless they are None.

    A value that means the same in the field's type is converted: text to a path (with ~ expanded), a list to a tuple,
    16.0 to a whole number, a number of NumPy or torch to Python's.

    Raises:
        ConfigError: a value is not allowed; the message names the field, the value and what is allowed.
    """
    for name, hint in type_hints(settings.__class__).items():
        given = getattr(settings, name)
        value = _convert(given, hint)
        allowed, expected = rules.get(name, (lambda _: True, ""))
        if not _has_type(value, hint):
            raise ConfigError(f"{name} is {given!r}; it must be {_describe(hint)}")
        object.__setattr__(settings, name, value)  # the dataclass is frozen
        if value is not None and not allowed(value):
            raise ConfigError(f"{name} is {value!r}; it must be {expected}")


@functools.cache
def type_hints(group: type[object]) -> dict[str, Any]:
    """Return the types of a dataclass's settings by name. Computed once: reading the annotations takes time."""
    hints = get_type_hints(group)
    return {item.name: hints[item.name] for item in dataclasses.fields(group) if item.init}  # type: ignore[arg-type]


def _convert(value: Any, hint: Any) -> Any:
    """Return a value in the type `hint` if that does not change its meaning, otherwise the value itself."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(item, get_args(hint)[0]) for item in value)
    kind = next((option for option in get_args(hint) if option is not type(None)), hint)  # such as int | None
    if kind is Path and isinstance(value, (str, Path)):
        return Path(os.path.expanduser(value))  # Path.expanduser raises an error for an unknown user
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _has_type(value: Any, hint: Any) -> bool:
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in options
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, options[0]) for item in value)
    if get_origin(hint) is Callable:
        return callable(value)
    if options:  # such as int | None
        return any(_has_type(value, option) for option in options)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _describe(hint: Any) -> str:
    """Return a type in words."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, options))
    if get_origin(hint) is Callable:
        return "a function"
    if get_origin(hint) is tuple:
        return f"a tuple, each value {_describe(options[0])}"
    if options:
        return " or ".join(map(_describe, options))
    return "None" if hint is type(None) else TYPE_NAMES.get(hint, hint.__name__)


def check_divisible(batch_size: int, processes: int) -> None:
    """Check that processes can divide each batch equally.

    Raises:
        ConfigError: they cannot.
    """
    if rest := batch_size % processes:
        raise ConfigError(
            f"batch_size is {batch_size}; it must be a multiple of the {processes} processes: choose "
            f"{batch_size - rest or processes}"
        )
