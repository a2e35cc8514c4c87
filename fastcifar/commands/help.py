"""The help page of a command that takes every setting: common options first, the others under headings.

An option's text is the docstring of its field; a field without one is not shown.
"""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from fastcifar.checks import type_hints
from fastcifar.recipes import RECIPES, describe_recipe

COMMON = (
    "recipe", "runs", "epochs", "batch_size", "max_lr", "amp", "compile", "device", "seed", "data_dir", "resume", "out",
)  # fmt: skip
"""The settings that most people change, in the order of the first panel."""
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
MAX_WIDTH, FLAG_WIDTH = 100, 24
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


class Option(NamedTuple):
    """One option: the heading of its panel, its setting's name, its flag with the metavar, and its text."""

    heading: str
    name: str
    flag: str
    text: str


def show_help(command: Any, program: str) -> None:
    """Print the help page of a command, whose defaults are the values of the dataclass `command`."""
    options = list(list_options(command))
    panels = {"Common options": [option for name in COMMON for option in options if option.name == name]}
    for option in options:
        if option.name not in COMMON:
            panels.setdefault(option.heading, []).append(option)
    console = Console(width=min(shutil.get_terminal_size().columns, MAX_WIDTH), highlight=False)
    print(f"usage: {program} [OPTIONS]\n")
    for paragraph in (inspect.getdoc(command) or "").split("\n\n"):
        print(textwrap.fill(paragraph, console.width, break_on_hyphens=False) + "\n")
    for heading, rows in panels.items():
        lines = Text("\n".join(line for row in rows for line in _lines(row, console.width - 4)))
        console.print(Panel(lines, title=heading, title_align="left", border_style="dim"))


def list_options(settings: Any, heading: str = "Other options of this run") -> Iterator[Option]:
    """List the options of a dataclass and of the dataclasses in it."""
    docstrings = _field_docstrings(type(settings))
    for name, hint in type_hints(settings.__class__).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            holds_groups = any(map(dataclasses.is_dataclass, vars(value).values()))
            own_heading = (inspect.getdoc(value) or "").splitlines()[0].removesuffix(".")
            yield from list_options(value, heading if holds_groups else own_heading)
        elif name in docstrings:
            flag = name.replace("_", "-")
            flag = f"--[no-]{flag}" if hint is bool else f"--{flag} {_metavar(hint)}"
            yield Option(heading, name, flag, docstrings[name] + _default(value))


def _field_docstrings(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _metavar(hint: Any) -> str:
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is Literal:
        return "|".join(map(str, options))
    if get_origin(hint) is tuple:
        return f"[{_metavar(options[0])} ...]"
    return "|".join(map(_metavar, options)) or METAVARS[hint]


def _default(value: Any) -> str:
    """Return the default in parentheses, kept on one line by no-break spaces."""
    if value is None or value == ():
        return ""
    values = value if isinstance(value, tuple) else (value,)
    shown = " ".join(map(_show, values))
    return " " + f"(default: {shown})".replace(" ", NO_BREAK_SPACE)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(option: Option, width: int) -> list[str]:
    indent = " " * FLAG_WIDTH
    fits = len(option.flag) < FLAG_WIDTH
    first = option.flag.ljust(FLAG_WIDTH) if fits else indent
    text = textwrap.wrap(option.text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    lines = [line.replace(NO_BREAK_SPACE, " ") for line in ([] if fits else [option.flag]) + text]
    recipes = RECIPES if option.name == "recipe" else ()
    return lines + [f"    {name:<12}{describe_recipe(name)}" for name in recipes]
