"""One run on two hosts that survives the loss of one of them, and a sweep whose trials run on both."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fastcifar.cli import main
from fastcifar.runs.read import read_metrics
from fastcifar.runs.results import EpochResult
from tests.helpers import write_pair
from tests.robustness.hosts import Host, NoNamespacesError, two_hosts

pytestmark = pytest.mark.slow

EPOCHS = 4
FLAGS = ["--recipe", "speedrun", "--widths", "8", "8", "8", "--batch-size", "64", "--epochs", str(EPOCHS)]
# learning rates of small batches, in float32: with others, rounding errors grow fast
FLAGS += ["--max-lr", "0.02", "--bias-lr", "5", "--head-lr", "10", "--no-amp", "--sync-batchnorm"]
FLAGS += ["--device", "cpu", "--no-report", "--checkpoint-every", "5"]


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_hosts())
        except NoNamespacesError as error:
            pytest.skip(f"needs network namespaces, and {error}")
        yield pair


@contextmanager
def started_run(host: Host, first: Host, flags: list[str], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start two processes of a run on a host, as the guide says; they may be restarted on one host alone."""
    is_first = int(host is first)  # torchrun cannot tell, since both have the machine's name
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first.address}:29400", "--rdzv-id", "run"]
    rendezvous += ["--rdzv-conf", f"is_host={is_first},last_call_timeout=1", "--local-addr", host.address]
    command = ["torchrun", "--nnodes", "1:2", "--nproc-per-node", "2", "--max-restarts", "1", *rendezvous]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with out.open("wb") as file:
        words = host.command(*command, "-m", "fastcifar", "train", *flags)
        with subprocess.Popen(words, env=environment, stdout=file, stderr=file) as launcher:
            try:
                yield launcher
            finally:
                host.end_processes()


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition, and return the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it takes too long"
        time.sleep(0.05)
    return time.monotonic() - start


def metrics(run: Path) -> list[EpochResult]:
    return read_metrics(run) if (run / "metrics.jsonl").exists() else []


def test_a_run_survives_the_loss_of_a_host(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    flags = [*FLAGS, "--data-dir", str(write_pair(tmp_path, train=1280, test=200))]
    run, alone, outs = tmp_path / "run", tmp_path / "alone", [tmp_path / "first", tmp_path / "second"]
    both = [*flags, "--run-dir", str(run), "--auto-resume"]
    with ExitStack() as stack:
        launchers = [
            stack.enter_context(started_run(host, hosts[0], both, out)) for host, out in zip(hosts, outs, strict=True)
        ]

        # four processes train, until one host is cut off in the middle
        wait_until(lambda: bool(metrics(run)) or launchers[0].poll() is not None, 90)
        processes = {pid for host in hosts for pid in host.processes()} - {launcher.pid for launcher in launchers}
        assert len(processes) == 4, outs[0].read_text()
        hosts[1].disconnect()
        took = wait_until(lambda: not any(processes.intersection(host.processes()) for host in hosts), 60)
        shutil.copytree(run, alone)
        assert took < 30

        # two go on by themselves on the other host, and one process on its own
        assert launchers[0].wait(90) == 0, outs[0].read_text()
    assert main(["train", "--resume", str(alone), "--no-report"]) == 0
    assert main(["train", *flags, "--run-dir", str(tmp_path / "expected")]) == 0
    expected = metrics(tmp_path / "expected")
    for results in (metrics(run), metrics(alone)):
        assert [result.epoch for result in results] == list(range(1, EPOCHS + 1))
        assert [result.train_loss for result in results] == pytest.approx([e.train_loss for e in expected], rel=1e-4)
        assert results[-1].test_accuracy == pytest.approx(expected[-1].test_accuracy, abs=0.02)

    # each host shows one error, and one process of a start has the console
    first, second = (out.read_text() for out in outs)
    for text in (first, second):
        assert text.count("fastcifar: ") == text.count("lost the connection to another process of this run") == 1
    assert "failed (exitcode: 1)" in first
    assert (first + second).count("device     CPU") == 2


def titles(host: Host) -> set[str]:
    """The titles that Ray gives to the processes of a host while they work."""
    found = set()
    for pid in host.processes():
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 "))
    return {title for title in found if title.startswith("ray::") and "IDLE" not in title}


def cluster_environment() -> dict[str, str]:
    """The environment without proxies, behind which Ray would look for the other host, and without a user's token."""
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**variables, "RAY_AUTH_MODE": "disabled"}


def start_node(host: Host, *options: str) -> None:
    """Start a machine of a Ray cluster, with one core and little memory."""
    small = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    command = host.command("ray", "start", "--node-ip-address", host.address, *small, *options)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, env=cluster_environment())
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sweep_runs_on_two_hosts(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (first, second), run, out = hosts, tmp_path / "sweep", tmp_path / "out"
    cluster, search = f"{first.address}:6379", "max_lr=choice(0.1, 0.2, 0.3, 0.4)"
    flags = [
        "--recipe",
        "speedrun",
        "--widths",
        "8",
        "8",
        "8",
        "--batch-size",
        "64",
        "--epochs",
        "2",
        "--device",
        "cpu",
    ]
    flags += ["--data-dir", str(write_pair(tmp_path, train=1280, test=200)), "--run-dir", str(run)]
    words = first.command("fastcifar", "sweep", "--address", cluster, "--search", search, *flags)
    used = {host: set[str]() for host in hosts}
    with ExitStack() as stack, out.open("wb") as file:
        temporary = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="ray-")
        )  # the names of sockets must be short
        for host in hosts:
            stack.callback(host.end_processes)
        start_node(first, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={temporary}")
        start_node(second, f"--address={cluster}")
        with subprocess.Popen(words, stdout=file, stderr=file, env=cluster_environment()) as sweep:
            while sweep.poll() is None:
                for host, working in used.items():
                    working |= titles(host)
                time.sleep(0.1)
    assert sweep.returncode == 0, out.read_text()
    assert all(any("Train" in title for title in working) for working in used.values()), used
    assert len(list(run.rglob("metrics.jsonl"))) == 4
