"""The Ray cluster of a sweep: this machine, or several, and what each trial gets of them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from fastcifar.errors import ConfigError, DeviceError
from fastcifar.machine import usable_cores
from fastcifar.sweep.folder import SweepFolder
from fastcifar.sweep.plan import Resources

_ADDRESS_ADVICE = (
    "start one with `ray start --head`, set RAY_AUTH_MODE=token if its machines have a token, or leave out --address"
)
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory for what trials exchange, which is nothing."""


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, during the block."""
    started: dict[str, Any] = {
        "num_cpus": usable_cores(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **({} if address else started),
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"the Ray cluster at {address} cannot be used" if address else "Ray cannot be started on this machine"
        advice = f"; {_ADDRESS_ADVICE}" if address else ""
        raise DeviceError(f"{where} ({reason}){advice}") from error
    try:
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def choose_shares(resources: Resources, folder: SweepFolder) -> dict[str, float]:
    """Return the cores and GPUs of each trial."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_cpu = all(config.runtime.device == "cpu" for config in folder.plan.recipes.values())
    gpus = resources.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if not on_cpu and any(machine.get("GPU") for machine in machines) else 0.0
    return check_shares({"CPU": resources.cpus_per_trial, "GPU": gpus}, machines)


def check_shares(shares: dict[str, float], machines: list[Mapping[str, float]]) -> dict[str, float]:
    """Return the shares of a trial, if one of the machines has as much.

    Raises:
        ConfigError: none has; the trials would wait for ever.
    """
    if not any(all(machine.get(kind, 0) >= share for kind, share in shares.items()) for machine in machines):
        wanted = " and ".join(f"{share:g} {kind}s" for kind, share in shares.items() if share)
        have = "; ".join(f"{machine.get('CPU', 0):g} CPUs, {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise ConfigError(
            f"each trial is to have {wanted}, and no machine has that many ({have}); change --cpus-per-trial or "
            "--gpus-per-trial"
        )
    return shares
