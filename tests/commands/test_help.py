from __future__ import annotations

import itertools
import re
import subprocess
import sys

import pytest

from fastcifar.cli import main
from fastcifar.commands.help import list_options
from fastcifar.commands.lr_find import lr_find_default
from fastcifar.commands.train import train_default
from fastcifar.config import SETTINGS
from fastcifar.recipes import RECIPES, describe_recipe

Capture = pytest.CaptureFixture[str]

HEADINGS = [
    "Common options",
    "Other options of this run",
    "Data and batches",
    "Optimizer, learning rate and loss",
    "Device, precision and seed",
    "Augmentation of training batches",
    "Model",
    "Initialisation",
    "Freezing of layers during training",
    "Progressive resizing",
    "Test-time augmentation",
]
MOST_USED = [
    "recipe",
    "epochs",
    "batch-size",
    "max-lr",
    "[no-]amp",
    "[no-]compile",
    "device",
    "seed",
    "data-dir",
    "resume",
]


def help_page(arguments: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the help page on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out.splitlines()


def options_on(lines: list[str]) -> list[str]:
    return [found[1] for line in lines if (found := re.match(r"│ --(\S+)", line))]


def test_the_first_panel_of_the_help_of_train_has_the_common_options(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_page(["train"], capsys, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert options_on(lines[:40])[: len(MOST_USED)] == MOST_USED
    starts = [number for number, line in enumerate(lines[:40]) if line.startswith(("│ --", "╰"))]
    recipe, *others = [end - start for start, end in itertools.pairwise(starts)][: len(MOST_USED)]
    assert recipe <= 2 + len(RECIPES)
    assert max(others) <= 2


def test_the_headings_are_in_the_order_in_which_people_need_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_page(["train"], capsys, monkeypatch)
    assert [found[1] for line in lines if (found := re.match(r"╭─ (.+?) ─", line))] == HEADINGS


def test_each_setting_is_listed_once(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("train", "lr-find"):
        shown = options_on(help_page([command], capsys, monkeypatch))
        names = [name.removeprefix("[no-]").replace("-", "_") for name in shown]
        assert len(names) == len(set(names))
        assert set(SETTINGS) < set(names)
        assert {"recipe", "source"} < set(names)


def test_every_option_has_a_text() -> None:
    for command in (train_default([]), lr_find_default([])):
        for option in list_options(command):
            assert re.match(r"\S.+\.", option.text), option


def test_the_recipes_are_listed_with_a_line_each(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    page = help_page(["train"], capsys, monkeypatch)
    assert main(["recipes"]) == 0
    table = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in table] == list(RECIPES)
    for name, line in zip(RECIPES, table, strict=True):
        assert line.endswith(describe_recipe(name))
        assert len(line) <= 80
        assert any(name in shown and describe_recipe(name) in shown for shown in page)


def test_the_defaults_are_those_of_the_recipe(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    page = " ".join(help_page(["train", "--recipe", "speedrun"], capsys, monkeypatch))
    for default in ("(default: 4.2)", "(default: speed_cnn)", "(default: 32 192 256)", "(default: on)"):
        assert default in page
    assert "tyro" not in page


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, fastcifar.cli, contextlib\n"
        "with contextlib.suppress(SystemExit): fastcifar.cli.main(['train', '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
