"""Helpers that several commands share: one flag's value, the .beton files, process-wide settings, notes, folders."""

import argparse
import contextlib
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastcifar.commands.write_beton import WriteBeton, only_writer
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.recipes import DEFAULT_RECIPE, get_recipe
from fastcifar.settings import DataSettings, RuntimeSettings
from fastcifar.torchrun import world_size


def take_flag(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Return the value of a flag that decides the defaults of other flags, and the arguments without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, f"--{flag[2:].replace('-', '_')}", nargs="?", dest="value")
    known, others = parser.parse_known_args(arguments)
    return known.value, others


def chosen_recipe(arguments: list[str]) -> TrainConfig:
    """Return the configuration of the recipe that the arguments name: the defaults of the other flags."""
    return get_recipe(take_flag(arguments, "--recipe")[0] or DEFAULT_RECIPE)


def ensure_betons(folder: Path, source: str) -> None:
    """Write train.beton and test.beton if one of them is missing; otherwise check that they hold the named source.

    If another process is writing them, wait and use its files.

    Raises:
        DataError: the source cannot be read, or the files hold something else.
    """
    from fastcifar.data.pair import has_pair

    if not has_pair(folder):
        with only_writer(folder):
            if not has_pair(folder):  # which may have changed while this process was waiting
                WriteBeton(source=source, out=folder).write()
                return
    if source == "auto" and folder != DataSettings.data_dir:
        return
    from fastcifar.data.source_check import check_source, note_unused_source

    if source != "auto":
        check_source(folder, source)
    elif note := note_unused_source(folder):
        show_notes([note])


def apply_settings_of(run: Path, device: str) -> None:
    """Apply the process-wide settings of a run, for a command that computes with its checkpoint on `device`."""
    from fastcifar.device import apply_process_settings
    from fastcifar.runs.read import read_config

    runtime = read_config(run).runtime if (run / "config.json").exists() else RuntimeSettings()
    apply_process_settings(dataclasses.replace(runtime, device=device))


def show_notes(notes: Iterable[str]) -> None:
    """Print the notes of a `Runtime` on stderr, one per line."""
    for note in notes:
        print(note, file=sys.stderr)


def require_one_process() -> None:
    """Refuse to start as one of several processes, since each would train the whole run.

    Raises:
        ConfigError: a launcher such as torchrun has started this process with others, or WORLD_SIZE is no number.
    """
    if (count := world_size()) > 1:
        raise ConfigError(f"WORLD_SIZE is {count}; a run trains in one process: start it without torchrun")


@contextmanager
def output_folder(given: Path | None, name: str) -> Iterator[Path]:
    """Yield the folder that is given, or create one, such as runs/20260102-030405-era, if it is None.

    Of several processes that start in the same second, each gets a folder of its own, with -2, -3, … at the end. It is
    removed again if the block leaves it empty.
    """
    if given is not None:
        yield given
        return
    first = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
