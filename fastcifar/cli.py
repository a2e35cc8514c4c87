"""The command line: parse, call, turn errors into exit codes. The only place that catches them."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable
from typing import Any

import tyro

from fastcifar.commands.doctor import Doctor
from fastcifar.commands.evaluate import Evaluate
from fastcifar.commands.export import Export
from fastcifar.commands.inspect import Inspect
from fastcifar.commands.lr_find import LrFind, lr_find_default
from fastcifar.commands.predict import Predict
from fastcifar.commands.report import Report
from fastcifar.commands.summary import Summary
from fastcifar.commands.train import Train, train_arguments, train_default
from fastcifar.commands.write_beton import WriteBeton
from fastcifar.errors import ConfigError, FastCifarError

Command = WriteBeton | Inspect | LrFind | Train | Evaluate | Report | Predict | Export | Summary | Doctor

COMMANDS: dict[str, type[Command]] = {
    "write-beton": WriteBeton,
    "inspect": Inspect,
    "lr-find": LrFind,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "export": Export,
    "summary": Summary,
    "doctor": Doctor,
}

DEFAULTS: dict[str, Callable[[list[str]], Command]] = {"lr-find": lr_find_default, "train": train_default}
"""Commands whose flags have defaults that depend on the arguments."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code: 0, 2 for usage, 128 and its number for a signal, 1 for the rest."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_reporting_errors("fastcifar", lambda: _run(arguments))


def run_reporting_errors(program: str, work: Callable[[], int]) -> int:
    """What `work` returns; where bad input, the machine or Ctrl-C ends it, one line on stderr and the exit code."""
    try:
        return work()
    except FastCifarError as error:
        return _fail(program, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(program, "stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more
        return 1
    except OSError as error:
        return _fail(program, f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"fastcifar {version('fastcifar')}")
        return 0
    return _parse(arguments[0], arguments[1:]).run()


def _parse(name: str, arguments: list[str]) -> Command:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `fastcifar --help`"
        raise ConfigError(f"there is no command {name!r}: {hint}")
    options: dict[str, Any] = {"config": (tyro.conf.OmitArgPrefixes,)}
    if name in DEFAULTS:
        options["default"] = DEFAULTS[name](arguments)
    if name == "train":
        arguments = train_arguments(arguments)
    command: Command = tyro.cli(COMMANDS[name], prog=f"fastcifar {name}", args=arguments, **options)
    return command


def _overview() -> str:
    rows = "\n".join(f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items())
    return f"""usage: fastcifar COMMAND [OPTIONS]

CIFAR-10 to 90 % and beyond, every second counted.

{rows}

  --version    Print the version.

`fastcifar COMMAND --help` shows a command's options."""


def _fail(program: str, message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"{program}: {message}", file=sys.stderr, flush=True)
    return code
