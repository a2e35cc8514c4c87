"""Shared by several commands: the recipe's defaults, the .beton files, notes, folders."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from fastcifar.commands.write_beton import WriteBeton
from fastcifar.config import TrainConfig
from fastcifar.recipes import get_recipe


def chosen_recipe(arguments: list[str]) -> TrainConfig:
    """The recipe that the arguments name; it decides the defaults that the other flags change."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="era")
    return get_recipe(parser.parse_known_args(arguments)[0].recipe)


def ensure_betons(folder: Path, source: str) -> None:
    """Write train.beton and test.beton if one of them is missing."""
    if not all((folder / f"{split}.beton").exists() for split in ("train", "test")):
        WriteBeton(source=source, out=folder).run()


def show_notes(notes: Iterable[str]) -> None:
    """Print the notes of a `Runtime` on stderr, one per line."""
    for note in notes:
        print(note, file=sys.stderr)


def new_folder(name: str) -> Path:
    """Such as runs/20260102-030405-era, not made yet."""
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
