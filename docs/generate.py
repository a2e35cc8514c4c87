"""The parts of docs/ that are generated: from the recipes, the settings and the commands.

    python -m docs.generate            # write them
    python -m docs.generate --check    # fail if a page is not up to date

Each part stands between two comments, <!-- NAME --> and <!-- end NAME -->.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastcifar.cli import COMMANDS
from fastcifar.commands.help import Option, list_options
from fastcifar.commands.lr_find import lr_find_default
from fastcifar.commands.train import train_default
from fastcifar.data.formats import FORMATS
from fastcifar.recipes import DEFAULT_RECIPE, RECIPES, describe_recipe, get_recipe

ROOT = Path(__file__).parent.parent
MAIN_SETTINGS = (
    "epochs", "batch_size", "model", "optimizer", "max_lr", "div_factor", "final_div_factor", "pct_start",
    "weight_decay", "padding", "padding_mode", "flip_p", "cutout",
)  # fmt: skip
PAGES = ("recipes.md", "settings.md", "guides/commands.md", "guides/your-data.md")


def recipes_table() -> str:
    """One row per recipe."""
    rows = []
    for name in RECIPES:
        config = get_recipe(name)
        network, optimizer = f"`{config.model.model}`", config.optim.optimizer
        rows.append(f"[`{name}`](#{name}) | {describe_recipe(name)} | {config.epochs:g} | {network} | {optimizer}")
    return _table("recipe | what it is | epochs | network | optimizer", rows)


def recipe_sections() -> str:
    """One section per recipe: its description, its command, and its settings that differ from those of `era`."""
    era, sections = get_recipe(DEFAULT_RECIPE).to_json(), []
    for name, recipe in RECIPES.items():
        title, _, body = (inspect.getdoc(recipe) or "").partition("\n\n")
        match = re.match(r"Command: `([^`]+)`(?:, ([^.]+\.[^.]*\.))?\.?\s*(.*)", body, re.DOTALL)
        assert match is not None, f"the docstring of {name} does not begin with its command"
        command, variant, text = match.groups()
        values = get_recipe(name).to_json()
        changed = [key for key in values if key != "base_recipe" and values[key] != era[key]]
        settings = "\n".join(f"{key:<18}{_value(values[key])}" for key in (changed or MAIN_SETTINGS))
        heading = f"Settings that differ from `{DEFAULT_RECIPE}`:" if changed else "The main settings:"
        parts = [f"### {name}", f"**{title}**", f"```bash\n{command}\n```", variant and f"Or {variant}", _code(text)]
        sections += [*filter(None, parts), f"{heading}\n\n```text\n{settings}\n```"]
    return "\n\n".join(sections)


def settings_list(options: list[Option]) -> str:
    """The options under their headings, each with its text."""
    groups: dict[str, list[str]] = {}
    for option in options:
        heading = "The run" if option.heading.startswith("Other options") else option.heading
        groups.setdefault(heading, []).append(_item(f"- `{option.flag}`: {_text(option.text)}"))
    return "\n\n".join(f"### {heading}\n\n" + "\n".join(rows) for heading, rows in groups.items())


def train_settings() -> str:
    """Every option of `fastcifar train`."""
    return settings_list(list(list_options(train_default([]))))


def lr_find_settings() -> str:
    """The options of the range test itself."""
    options = [option for option in list_options(lr_find_default([])) if "range test" in option.heading]
    return settings_list(options)


def commands_table() -> str:
    """One row per command."""
    return _table(
        "command | what it does",
        [f"`fastcifar {name}` | {(inspect.getdoc(kind) or '').splitlines()[0]}" for name, kind in COMMANDS.items()],
    )


def source_formats() -> str:
    """One row per format of a data set that `write-beton` reads."""
    return _table(
        "`--source-format` | how it is recognised", [f"`{name}` | {_cell(one.looks)}" for name, one in FORMATS.items()]
    )


def _cell(text: str) -> str:
    """The text with file names as code."""
    return re.sub(r"(?:\S*[/_*<.]|cifar-1)\S*?(?=,? |,?$)", lambda name: f"`{name[0]}`", text)


def _table(header: str, rows: list[str]) -> str:
    columns = header.count("|") + 1
    return "\n".join(f"| {line} |" for line in (header, " | ".join(["---"] * columns), *rows))


def _code(text: str) -> str:
    """The text of a docstring, wrapped for this width, with paths in code format."""
    marked = re.sub(r"\((benchmarks/results/[\w-]+\.json)\)", r"(`\1`)", " ".join(text.split()))
    return textwrap.fill(marked, 120, break_long_words=False, break_on_hyphens=False)


def _text(text: str) -> str:
    """A help text without Markdown's special characters, and with its default at the end in code format."""
    plain = text.replace("\N{NO-BREAK SPACE}", " ").replace("<", "&lt;").replace("*", r"\*")
    plain = plain.replace("see below", "see [Recipes](recipes.md)")
    return re.sub(r" \(default: (.*)\)$", r" Default: `\1`.", plain)


def _item(text: str) -> str:
    """An item of a list, wrapped, with the following lines indented."""
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


PARTS: dict[str, Callable[[], str]] = {
    "recipes": recipes_table,
    "recipe_sections": recipe_sections,
    "train_settings": train_settings,
    "lr_find_settings": lr_find_settings,
    "commands": commands_table,
    "source_formats": source_formats,
}
"""The generated parts by the name in their comments."""


def filled(text: str) -> str:
    """`text` with each part between its comments generated again."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end \1 -->",
        lambda match: f"<!-- {match[1]} -->\n\n{PARTS[match[1]]()}\n\n<!-- end {match[1]} -->",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    """Write the pages, or check them; return the exit code."""
    old = {path: path.read_text() for path in (ROOT / "docs" / page for page in PAGES)}
    changed = {path: new for path, text in old.items() if (new := filled(text)) != text}
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{path.relative_to(ROOT)} is not up to date; run python -m docs.generate", file=sys.stderr)
        return int(bool(changed))
    for path, text in changed.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
