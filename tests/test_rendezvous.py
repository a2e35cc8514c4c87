from __future__ import annotations

import datetime
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from fastcifar import rendezvous
from fastcifar.errors import ConfigError, ProcessError


@pytest.fixture
def store() -> Any:
    return dist.HashStore()  # type: ignore[attr-defined]


def together(work: Callable[[int], Any], count: int) -> list[Any]:
    """The results of a function of the rank, or the errors that it raised, in as many threads."""

    def result(rank: int) -> Any:
        try:
            return work(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(result, range(count)))


def test_restarted_processes_do_not_find_the_values_of_earlier_ones(store: Any) -> None:
    for start in range(2):
        stores = together(lambda rank: rendezvous._keys_of_this_start(store, rank, 3), 3)
        assert not stores[0].check(["key"])
        stores[start].set("key", str(start))
        assert [other.get("key") for other in stores] == [str(start).encode()] * 3


def test_a_process_that_does_not_start_is_named(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "LONGEST_START", datetime.timedelta(seconds=0.1))
    first, second = together(lambda rank: rendezvous._keys_of_this_start(store, rank, 3), 2)
    assert isinstance(first, ProcessError)
    assert "1 of the 3 processes of this run have not started" in str(first)
    assert "process 3 among them" in str(first)
    assert not isinstance(second, Exception)


def test_a_busy_port_or_an_unreachable_machine_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ProcessError, match=f"cannot meet the other processes .* at localhost, port {port}"):
            rendezvous.meet()


def test_processes_with_other_settings_are_refused_by_all(store: Any) -> None:
    def compare(rank: int) -> None:
        rendezvous.require_equal(store, rank, 3, {"epochs": 5, "batch_size": 64 if rank == 1 else 128})

    errors = together(compare, 3)
    host = socket.gethostname()
    expected = f"batch_size is 64 in process 2, on {host}, and 128 in the first one: they must be equal"
    assert [str(error) for error in errors] == [expected] * 3
    assert all(isinstance(error, ConfigError) for error in errors)
    assert together(lambda rank: rendezvous.require_equal(store, rank, 3, {"epochs": 5}), 3) == [None] * 3


def test_gloo_takes_the_interface_that_leads_to_the_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendezvous.interface_towards("127.0.0.1") is None
    assert rendezvous.interface_towards("name.invalid") is None
    monkeypatch.setattr(rendezvous, "_address", lambda probe, name: probe.getsockname()[0])
    found = rendezvous.interface_towards("192.0.2.1")
    assert found is None or found in {name for _, name in socket.if_nameindex()}
