"""Outcomes of reading a file, and the JSON that a robustness program writes at the end."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from fastcifar.cli import run_reporting_errors
from fastcifar.data.manifest import open_beton
from fastcifar.device import apply_process_settings, resolve_runtime
from fastcifar.errors import FastCifarError
from fastcifar.files import write_json
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings


def outcome(work: Callable[[], object]) -> str:
    """Return "passed", "refused" (a FastCifarError), or "raised X" for an error that a caller does not expect."""
    try:
        work()
    except FastCifarError:
        return "refused"
    except Exception as error:
        return f"raised {type(error).__name__}"
    return "passed"


def describe_results(
    settings: Any, beton: Path, runs: Sequence[Mapping[str, Any]], *, device: str = "cpu"
) -> dict[str, Any]:
    """Return the content of a result file.

    Args:
        settings: the program's dataclass of settings; the benchmark's name is its name in lower case.
        beton: a .beton that the program used, which identifies the data.
        runs: one entry per part of the program, or per measurement.
        device: the device that the program used.
    """
    _, manifest = open_beton(beton)
    return {
        "benchmark": type(settings).__name__.lower(),
        **describe_environment(resolve_runtime(RuntimeSettings(device=device)), manifest),
        "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name != "out"},
        "runs": list(runs),
    }


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write a result file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)
    print(f"results: {path}")


def run_command(main: Callable[[Any], None], settings: Callable[..., Any], description: str | None) -> None:
    """Run a program with the settings of the command line; bad input ends it with one line on stderr."""
    name = f"tests.robustness.{Path(sys.argv[0]).stem}"

    def work() -> int:
        chosen = tyro.cli(settings, prog=f"python -m {name}", description=description)
        if hasattr(chosen, "device"):
            apply_process_settings(RuntimeSettings(device=chosen.device))
        main(chosen)
        return 0

    sys.exit(run_reporting_errors(name, work))
