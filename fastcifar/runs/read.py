"""Read the files of a run folder, apart from its checkpoints; without torch, whose import takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict

from fastcifar.config import TrainConfig
from fastcifar.migrations import migrate_config, migrate_result
from fastcifar.runs.json_files import check_types, parse_object, read_json, unreadable
from fastcifar.runs.results import EpochResult


class DataIdentity(TypedDict):
    """The data set of a run: its name, the hash of its images and labels, and how it was made from another one."""

    name: str
    content_sha256: str
    variations: NotRequired[str]


class Environment(TypedDict):
    """The content of environment.json: device, precision, versions by package, platform, git commit, and data."""

    device: str
    precision: str
    versions: dict[str, str]
    platform: str
    commit: str | None
    data: DataIdentity


def read_config(run: Path) -> TrainConfig:
    """Read the configuration of a run.

    Raises:
        CheckpointError: the folder has no config.json, or a setting in it is unknown, has the wrong type or a value
            that is not allowed.
    """
    return read_json(run, "config.json", lambda values: TrainConfig.from_json(migrate_config(values)))


def read_environment(run: Path) -> Environment:
    """Read the environment of a run.

    Raises:
        CheckpointError: the folder has no environment.json, or a key in it is missing or unknown or has the wrong type.
    """
    return read_json(run, "environment.json", lambda values: check_types(values, Environment))


def read_metrics(run: Path) -> list[EpochResult]:
    """Read the results of a run's epochs. An incomplete last line, which a killed run leaves, is ignored.

    Raises:
        CheckpointError: the folder has no metrics.jsonl, or a line of it is damaged, lacks a key, or has an unknown key
            or a value of the wrong type.
    """
    try:
        lines = (run / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError as error:
        raise unreadable(run, "metrics.jsonl", error) from error
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(check_types(migrate_result(parse_object(line)), EpochResult))
        except ValueError as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise unreadable(run, "metrics.jsonl", error, number) from error
    return results
