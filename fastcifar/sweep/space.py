"""The search space of a sweep: for each setting, the values to choose from or a range to draw from.

An expression is written as in `loguniform(0.01, 1)`. It is parsed by `ast`; nothing of it is executed by Python.
"""

from __future__ import annotations

import ast
import math
import random
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import ConfigError, closest

NOT_SEARCHED = {
    "run_dir": "each run has its own folder",
    "data_dir": "all runs use the same images",
    "seed": "use --seeds",
    "val_fraction": "accuracies on different images cannot be compared",
    "device": "use --gpus-per-trial",
}
"""Settings that a sweep cannot search, and why."""
EXAMPLE = "write choice(500, 1000), uniform(0, 0.3), loguniform(0.01, 1) or randint(1, 8)"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """Draw a value."""
        return generator.choice(self.values)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that must all be allowed."""
        return self.values

    def __str__(self) -> str:
        return f"choice({', '.join(map(repr, self.values))})"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers for the kind "randint"."""

    kind: str
    """'uniform', 'loguniform' or 'randint'."""
    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        """Draw a number."""
        if self.kind == "randint":
            return generator.randint(int(self.low), int(self.high))
        if self.kind == "loguniform":
            drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            return min(max(drawn, self.low), self.high)
        return generator.uniform(self.low, self.high)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that must all be allowed."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.kind}({self.low!r}, {self.high!r})"


Space = Mapping[str, Choice | Range]
"""What to choose each setting from, by its name."""


def parse_search(flags: Iterable[str]) -> dict[str, Choice | Range]:
    """Parse the values of `--search`, such as `max_lr=loguniform(0.1, 0.5)`.

    Raises:
        ConfigError: one cannot be parsed, or names a setting that does not exist, cannot be searched or is given twice.
    """
    space: dict[str, Choice | Range] = {}
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise ConfigError(f"--search has {flag!r}; write SETTING=EXPRESSION, such as max_lr=loguniform(0.01, 1)")
        name = _require_setting(name.strip())
        if name in space:
            raise ConfigError(f"--search has {name} twice")
        space[name] = parse_expression(name, text)
    return space


def read_space(path: Path) -> dict[str, Choice | Range]:
    """Read a search space from a TOML file: for each setting, an expression as text or a list of values.

    Raises:
        ConfigError: the file cannot be read or is not TOML, or as in `parse_search`. The message has its name.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return {_require_setting(name): _from_toml(name, value) for name, value in values.items()}
    except OSError as error:
        raise ConfigError(f"{path}: this search space cannot be read ({error.strerror})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path}: is not a TOML file ({error})") from error


def parse_expression(name: str, text: str) -> Choice | Range:
    """Parse the expression of a setting. Words without quotation marks are text: choice(adam, sgd).

    Raises:
        ConfigError: it is not one of the known expressions, or has wrong limits.
    """
    wrong = ConfigError(f"{name} has the search expression {text.strip()!r}; {EXAMPLE}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise wrong from None
    match node:
        case ast.Call(func=ast.Name(id="choice"), args=[_, *_], keywords=[]):
            return _choice(name, [_literal(argument, wrong) for argument in node.args])
        case ast.Call(func=ast.Name(id="uniform" | "loguniform" | "randint" as kind), args=[low, high], keywords=[]):
            return _range(name, kind, _literal(low, wrong), _literal(high, wrong))
    raise wrong


def _require_setting(written: str) -> str:
    name = written.replace("-", "_")
    if name not in SETTINGS:
        raise ConfigError(f"there is no setting {written!r} to search: did you mean {closest(name, SETTINGS)}?")
    if name in NOT_SEARCHED:
        raise ConfigError(f"{name} cannot be searched: {NOT_SEARCHED[name]}")
    return name


def _from_toml(name: str, value: Any) -> Choice | Range:
    if isinstance(value, str):
        return parse_expression(name, value)
    if isinstance(value, list) and value:
        return _choice(name, value)
    raise ConfigError(f"{name} is {value!r}; {EXAMPLE} as text, or a list of values")


def _choice(name: str, values: list[Any]) -> Choice:
    if any(value in values[:index] for index, value in enumerate(values)):
        raise ConfigError(f"{name} has a value twice to choose from: {', '.join(map(repr, values))}")
    return Choice(tuple(values))


def _range(name: str, kind: str, low: Any, high: Any) -> Range:
    number = int if kind == "randint" else (int, float)
    if not all(isinstance(end, number) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)):
        raise ConfigError(
            f"{name} has {kind}({low!r}, {high!r}); it needs {'whole' if number is int else 'two'} numbers"
        )
    if low >= high or (kind == "loguniform" and low <= 0):
        above_0 = " above 0" if kind == "loguniform" else ""
        raise ConfigError(
            f"{name} has {kind}({low!r}, {high!r}); the first number must be{above_0} below the second one"
        )
    return Range(kind, low, high)


def _literal(node: ast.expr, wrong: ConfigError) -> Any:
    """Return the value of a literal; a word is text, also in a list."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element, wrong) for element in node.elts]
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise wrong from None
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise wrong
    return value


def check_space(space: Space, bases: Mapping[str, TrainConfig]) -> None:
    """Check that each setting may have the values that can be chosen for it, in each of the recipes `bases`.

    Raises:
        ConfigError: a value has the wrong type or is not allowed.
    """
    first = {name: options.examples[0] for name, options in space.items()}
    for config in bases.values():
        for name, value in _examples(space):
            try:
                config.replace(**{**first, name: value})
            except ConfigError as error:
                raise ConfigError(
                    f"the search space of {name} does not fit the recipe {config.name}: {error}"
                ) from error


def _examples(space: Space) -> Iterator[tuple[str, Any]]:
    for name, options in space.items():
        for value in options.examples:
            yield name, value
