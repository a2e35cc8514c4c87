"""Two machines on one: network namespaces of Linux that are joined by a cable, a pair of virtual interfaces."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "fastcifar-test"
INTERFACE = "eth0"
_numbers = itertools.count()


class NoNamespacesError(Exception):
    """This machine, or this user, cannot make network namespaces."""


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface. Files and processes are those of the machine."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Return a command that runs on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def disconnect(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("-n", self.name, "link", "set", INTERFACE, "down")

    def processes(self) -> list[int]:
        """Return the ids of the processes that run on this host."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def end_processes(self) -> None:
        """Kill the processes of this host."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.05)

    def remove(self) -> None:
        """Kill the processes of this host, and remove it."""
        self.end_processes()
        _ip("netns", "del", self.name)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that can reach each other, and remove them, with their processes, at the end.

    Raises:
        NoNamespacesError: `ip netns` is missing, or not permitted.
    """
    _remove_abandoned()
    pair = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    hosts = first, second = Host(f"{pair}a", "10.77.0.1"), Host(f"{pair}b", "10.77.0.2")
    with ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(host.remove)
        peer = ["type", "veth", "peer", "name", INTERFACE, "netns", second.name]
        _ip("link", "add", INTERFACE, "netns", first.name, *peer)
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield first, second


def _remove_abandoned() -> None:
    """Remove the hosts of tests that were killed."""
    for name in re.findall(rf"^{PREFIX}-\d+\S*", _ip("netns", "list"), re.MULTILINE):
        if not Path(f"/proc/{name.split('-')[2]}").exists():
            Host(name, "").remove()


def _ip(*words: str) -> str:
    try:
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise NoNamespacesError(f"`ip {' '.join(words)}` fails ({reason})") from error
