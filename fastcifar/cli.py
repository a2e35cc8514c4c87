"""The command line: parse the arguments, run the command, turn errors into exit codes. Errors are caught only here."""

import contextlib
import errno
import io
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Union

import tyro

from fastcifar.commands.adopt import Adopt
from fastcifar.commands.doctor import Doctor
from fastcifar.commands.dynamics import Dynamics
from fastcifar.commands.evaluate import Evaluate
from fastcifar.commands.export import Export
from fastcifar.commands.inspect import Inspect
from fastcifar.commands.lr_find import LrFind, lr_find_default
from fastcifar.commands.predict import Predict
from fastcifar.commands.recipes import Recipes
from fastcifar.commands.report import Report
from fastcifar.commands.runs import Runs
from fastcifar.commands.seeds import Seeds, seeds_arguments, seeds_default
from fastcifar.commands.summary import Summary
from fastcifar.commands.sweep import Sweep, sweep_default
from fastcifar.commands.train import Train, train_arguments, train_default
from fastcifar.commands.write_beton import WriteBeton
from fastcifar.errors import ConfigError, FastCifarError, FastCifarWarning, closest
from fastcifar.files import describe_os_error
from fastcifar.machine import unbind
from fastcifar.report.terminal import replace_missing_streams, replace_unprintable
from fastcifar.version import __version__


class Command(Protocol):
    """A dataclass whose fields are flags."""

    def run(self) -> int:
        """Run the command and return the exit code."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print the script that completes commands and options in a shell.

    To install it for bash:

    fastcifar completion bash > ~/.local/share/bash-completion/completions/fastcifar
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Shell to print the script for."""

    def run(self) -> int:
        """Print the script."""
        commands = []
        for name, command in COMMANDS.items():
            default = DEFAULTS[name]([]) if name in DEFAULTS else tyro.MISSING_NONPROP
            subcommand = tyro.conf.subcommand(name, default=default, description=_describe(command))
            commands.append(Annotated[command, subcommand])
        arguments = ["--tyro-write-completion", self.shell, "-"]
        with contextlib.suppress(SystemExit):  # tyro exits when it has printed the script
            tyro.cli(Union[tuple(commands)], prog="fastcifar", args=arguments, config=(tyro.conf.OmitArgPrefixes,))  # type: ignore[call-overload]  # noqa: UP007
        return 0


_ALL = (
    Doctor,
    WriteBeton,
    Adopt,
    Inspect,
    Recipes,
    LrFind,
    Train,
    Seeds,
    Sweep,
    Evaluate,
    Runs,
    Report,
    Dynamics,
    Predict,
    Export,
    Summary,
    Completion,
)
COMMANDS: dict[str, type[Command]] = {re.sub(r"\B(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in _ALL}
"""The commands by name, such as `write-beton` for WriteBeton."""

DEFAULTS: dict[str, Callable[[list[str]], Command]] = {
    "lr-find": lr_find_default,
    "train": train_default,
    "seeds": seeds_default,
    "sweep": sweep_default,
}
"""Commands whose flags have defaults that depend on the arguments."""

ARGUMENTS: dict[str, Callable[[list[str]], list[str]]] = {"train": train_arguments, "seeds": seeds_arguments}
"""Commands with arguments that are rewritten before they are parsed."""

OTHER_NAMES = {"--betons": "--data-dir"}
"""Other names of flags, which every command with the flag takes."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for wrong usage, 128 + a signal's number, 1 for other errors."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_reporting_errors("fastcifar", lambda: _run(arguments))


def run_reporting_errors(program: str, work: Callable[[], int]) -> int:
    """Return the result of `work`; after bad input, a failing machine or Ctrl-C, print one line and return the code."""
    replace_missing_streams()
    replace_unprintable()
    try:
        with _warnings_as_lines(program):
            return work()
    except FastCifarError as error:
        return _fail(program, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(program, "stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader closed the pipe
        return 1
    except OSError as error:
        return _fail(program, describe_os_error(error), 1)
    finally:
        _discard_output_without_reader()


def _discard_output_without_reader() -> None:
    """Discard the output for a pipe or terminal that is gone: Python, which writes it at exit, would exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if error.errno in (errno.EIO, errno.EPIPE):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:  # it is closed
            pass


@contextlib.contextmanager
def _warnings_as_lines(program: str) -> Iterator[None]:
    """In the block, print each `FastCifarWarning` as one line, once, without its place in the code."""
    show, shown = warnings.showwarning, set()

    def show_line(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, FastCifarWarning):
            show(message, category, *place, **options)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"{program}: warning: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show_line
        yield


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"fastcifar {__version__}")
        return 0
    if os.environ.get("OMP_PROC_BIND"):
        import torch  # noqa: F401  # its OpenMP binds this thread to one core

        unbind()  # before numba counts the cores
    return _parse(arguments[0], [_normalize(argument) for argument in arguments[1:]]).run()


def _normalize(argument: str) -> str:
    """Expand ~ at the start of a path, also in --flag=~/path, where shells leave it; use the own name of a flag."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if not value and (equals or not flag):  # as a path, it would be the current folder
        raise ConfigError(f"{argument or 'an argument'} is empty: give it a value, or leave it out")
    return OTHER_NAMES.get(flag, flag) + equals + os.path.expanduser(value)


def _parse(name: str, arguments: list[str]) -> Command:
    if name not in COMMANDS:
        near = closest(name, COMMANDS, cutoff=0.6)
        advice = f"did you mean {near}?" if near else "see `fastcifar --help`"
        raise ConfigError(f"there is no command {name!r}: {advice}")
    options: dict[str, Any] = {"config": (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)}
    if name in DEFAULTS:
        options = {"config": (tyro.conf.OmitArgPrefixes,), "default": DEFAULTS[name](arguments)}
        if {"-h", "--help"}.intersection(arguments):
            from fastcifar.commands.help import show_help

            show_help(options["default"], f"fastcifar {name}")
            sys.exit(0)
    if name in ARGUMENTS:
        arguments = ARGUMENTS[name](arguments)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            command: Command = tyro.cli(COMMANDS[name], prog=f"fastcifar {name}", args=arguments, **options)
    except SystemExit as stopped:
        if stopped.code:
            _fail("fastcifar", f"{_message(errors.getvalue())}; see `fastcifar {name} --help`", 2)
        raise
    return command


def _message(box: str) -> str:
    """Return the message of one of tyro's error boxes as one line: the part between the title and the help."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    rule = re.compile(r"[╭╰─]|-{5}")
    parts = [
        " ".join(group)
        for is_rule, group in itertools.groupby(lines, lambda line: bool(rule.match(line)))
        if not is_rule
    ]
    message = parts[0] if "╭" in box else parts[1]  # in ASCII, the title is a part of its own
    return re.sub(r"^Error parsing (?:(?:[A-Z]|config\b)\S*: )?", "", " ".join(message.split())).rstrip(".")


def _describe(command: type[Command]) -> str:
    """Return the first line of a command's docstring."""
    return (command.__doc__ or "").splitlines()[0]


def _overview() -> str:
    rows = "\n".join(f"  {name:<12} {_describe(command)}" for name, command in COMMANDS.items())
    return f"""usage: fastcifar COMMAND [OPTIONS]

CIFAR-10 to 90 % and beyond, every second counted.

{rows}

  --version    Print the version.

`fastcifar COMMAND --help` shows a command's options."""


def _fail(program: str, message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"{program}: {message}", file=sys.stderr, flush=True)
    return code
