"""How the processes of a run find each other, on one machine or on several, before they exchange tensors."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from fastcifar.errors import ConfigError, ProcessError
from fastcifar.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PrefixStore = dist.PrefixStore  # type: ignore[attr-defined]  # torch documents it, and does not export it
LONGEST_START = datetime.timedelta(minutes=2)
"""How long a process that has started waits for the others: their imports may take long on a slow file system."""
GET_INTERFACE_ADDRESS = 0x8915
"""Linux's SIOCGIFADDR, from sockios.h."""


def meet() -> tuple[Any, int, int]:
    """Wait for all processes; return the keys and values that they share, this one's rank, and their number.

    Raises:
        ProcessError: the first process cannot be reached, or another one does not start.
    """
    host = os.environ["MASTER_ADDR"]
    _choose_interface(host)
    try:
        shared, rank, count = next(rendezvous("env://", timeout=LONGEST_START))
        return _keys_of_this_start(shared, rank, count), rank, count
    except (dist.DistError, ValueError) as error:
        raise ProcessError(
            f"cannot meet the other processes of this run at {host}, port {os.environ['MASTER_PORT']}, the first "
            f"machine: have all of them started, and is the port free there? ({_first_sentence(error)})"
        ) from error


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0]


def _keys_of_this_start(store: Any, rank: int, count: int) -> Any:
    """Return the part of the store that belongs to this start of the processes.

    torchrun restarts processes with the store of the earlier ones, whose addresses and answers are still in it. So the
    first process gives a name to its start, and tells it to each process that is new.
    """
    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"fastcifar/new/{rank}", own)
        store.wait([f"fastcifar/start/{own}"], LONGEST_START)
        start = store.get(f"fastcifar/start/{own}").decode()
        store.set(f"fastcifar/{start}/{rank}", "here")
        return PrefixStore(start, store)
    deadline = time.monotonic() + LONGEST_START.total_seconds()
    missing = list(range(1, count))
    while missing := [other for other in missing if not store.check([f"fastcifar/{own}/{other}"])]:
        for other in missing:
            if store.check([f"fastcifar/new/{other}"]):
                store.set(f"fastcifar/start/{store.get(f'fastcifar/new/{other}').decode()}", own)
        if time.monotonic() > deadline:
            raise ProcessError(
                f"{len(missing)} of the {count} processes of this run have not started within "
                f"{LONGEST_START.total_seconds() / 60:.0f} min, process {missing[0] + 1} among them: see their output"
            )
        time.sleep(0.02)
    return PrefixStore(own, store)


def require_equal(store: Any, rank: int, count: int, settings: Mapping[str, object]) -> None:
    """Compare the settings (JSON values), and the versions of fastcifar and torch, of all processes.

    Raises:
        ConfigError: they differ. All processes raise the same error.
    """
    versions = {"the version of fastcifar": __version__, "the version of torch": torch.__version__}
    own = {"host": socket.gethostname(), "values": {**versions, **settings}}
    store.set(f"fastcifar/settings/{rank}", json.dumps(own))
    keys = [f"fastcifar/settings/{other}" for other in range(count)]
    store.wait(keys, LONGEST_START)
    first, *others = map(json.loads, store.multi_get(keys))
    for number, other in enumerate(others, start=2):
        for name, value in first["values"].items():
            if (found := other["values"].get(name)) != value:
                where = f"in process {number}, on {other['host']}"
                raise ConfigError(f"{name} is {found} {where}, and {value} in the first one: they must be equal")


def _choose_interface(host: str) -> None:
    """Let Gloo use the network interface that leads to a host, unless the user has chosen one.

    By itself Gloo takes the address that this machine's own name has, which is 127.0.1.1 on many systems.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(host)) is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """Return the name of the IPv4 network interface that leads to another host; None if it is this host, or unknown."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # which chooses a route, and sends nothing
        address = probe.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == address), None)
    return None


def _address(probe: socket.socket, interface: str) -> str | None:
    """Return the IPv4 address of a network interface, None if it has none."""
    request: Any = interface.encode()[:15].ljust(40, b"\0")
    try:
        return socket.inet_ntoa(fcntl.ioctl(probe, GET_INTERFACE_ADDRESS, request)[20:24])
    except (OSError, AttributeError):  # Windows has no fcntl
        return None
