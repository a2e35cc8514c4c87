from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcifar import TrainConfig
from fastcifar.cli import main
from fastcifar.errors import CheckpointError, FastCifarWarning, StoppedError
from fastcifar.report.loggers import RunLogs, open_logs
from fastcifar.runs.log_position import LogPosition, read_position, write_position
from fastcifar.runs.results import EpochResult
from fastcifar.settings import LogName
from tests.runs.examples import result

Capture = pytest.CaptureFixture[str]


def _log(name: LogName, folder: Path, epochs: list[int], run: str = "run") -> None:
    """Log a run of these epochs, or continue it."""
    (folder / run).mkdir(parents=True, exist_ok=True)
    with open_logs([name], folder / "logs", TrainConfig(run_dir=folder / run)) as logs:
        for epoch in epochs:
            logs.epoch(result(epoch))


class _Memory:
    """A log that keeps what it gets, and fails in one epoch."""

    def __init__(self, fails_at: int = 0) -> None:
        self.events: list[Any] = []
        self._fails_at = fails_at

    def epoch(self, result: EpochResult) -> None:
        if result.epoch == self._fails_at:
            raise ConnectionError("the server is gone\nin a second line")
        self.events.append(result.epoch)

    def close(self, outcome: str) -> None:
        self.events.append(outcome)


def test_a_log_that_fails_is_left_out_with_one_warning_and_the_others_go_on() -> None:
    bad, good = _Memory(fails_at=2), _Memory()
    logs = RunLogs({"mlflow": bad, "wandb": good})
    logs.epoch(result(1))
    with pytest.warns(FastCifarWarning, match=r"mlflow: writing its log failed \(the server is gone\)"):
        logs.epoch(result(2))
    logs.epoch(result(3))  # another warning would be an error
    logs.close("finished")
    assert (bad.events, good.events) == ([1], [1, 2, 3, "finished"])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "finished"),
        (StoppedError(signal.SIGTERM), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError(), "failed"),
    ],
)
def test_a_log_learns_how_the_run_ended(
    error: BaseException | None, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _Memory()
    monkeypatch.setattr("fastcifar.report.loggers._open", lambda *_: log)
    with contextlib.suppress(type(error)), open_logs(["mlflow", "mlflow"], tmp_path, TrainConfig()):
        if error is not None:
            raise error
    assert log.events == [outcome]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_one_line_before_the_training(
    name: str, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"fastcifar.report.{name}", raising=False)
    arguments = ["--data-dir", str(betons), "--model", "dilated_cnn", "--batch-size", "100", "--run-dir"]
    assert main(["train", "--device", "cpu", "--log", name, *arguments, str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'fastcifar[{name}]'" in line
    assert not (tmp_path / "run").exists()


def test_positions_are_kept_per_log_and_damage_is_named(tmp_path: Path) -> None:
    assert read_position(tmp_path, "mlflow") is None
    write_position(tmp_path, "mlflow", LogPosition(id="a", epoch=1))
    write_position(tmp_path, "wandb", LogPosition(id="b", epoch=2))
    assert read_position(tmp_path, "mlflow") == LogPosition(id="a", epoch=1)
    for text in ("{", '{"mlflow": 3}', '{"mlflow": {"id": 3}}'):
        (tmp_path / "logs.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"logs.json: .* damaged"):
            read_position(tmp_path, "mlflow")


class _Client:
    """The part of MLflow's client that is used, in memory: a new one knows the runs of the others."""

    runs: dict[str, dict[str, Any]]
    experiments: dict[str, str]

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> Any:
        return types.SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = f"{len(self.experiments)}"
        return self.experiments[name]

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> Any:
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {
            "name": run_name,
            "params": {},
            "points": [],
            "status": ["RUNNING"],
            "uri": self.tracking_uri,
        }
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> None:
        if run_id not in self.runs:
            raise _MlflowError

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id]["status"].append(status)

    set_terminated = update_run

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id]["params"] |= dict(params)
        self.runs[run_id]["points"] += [(step, value) for name, value, _, step in metrics if name == "test_accuracy"]


class _MlflowError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


@pytest.fixture
def mlflow_in_memory(monkeypatch: pytest.MonkeyPatch) -> type[_Client]:
    client = type("Client", (_Client,), {"runs": {}, "experiments": {}})
    entities = {name: lambda *values: values for name in ("Metric", "Param", "RunTag")}
    for name, content in {
        "mlflow": {"MlflowClient": client}, "mlflow.entities": entities,
        "mlflow.exceptions": {"MlflowException": _MlflowError},
    }.items():  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    return client


def test_mlflow_gets_settings_once_and_each_epoch_once_also_after_a_resume(
    mlflow_in_memory: type[_Client], tmp_path: Path
) -> None:
    _log("mlflow", tmp_path, [1])
    _log("mlflow", tmp_path, [1, 2])
    _log("mlflow", tmp_path, [1], run="other")
    first, other = mlflow_in_memory.runs.values()
    assert (first["name"], other["name"]) == ("run", "other")
    assert first["points"] == [(1, 0.25), (2, 0.5)]
    assert first["status"] == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    assert first["params"].keys() == TrainConfig().to_json().keys()
    assert first["uri"] == f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}"
    assert mlflow_in_memory.experiments.keys() == {"fastcifar"}


def test_mlflow_gets_a_whole_run_again_on_another_server(
    mlflow_in_memory: type[_Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _log("mlflow", tmp_path, [1])
    mlflow_in_memory.runs.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    _log("mlflow", tmp_path, [1, 2])
    (run,) = mlflow_in_memory.runs.values()
    assert (run["uri"], run["points"]) == ("http://other", [(1, 0.25), (2, 0.5)])


def test_wandb_gets_settings_and_each_epoch_once_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            calls.append((step, values["test_accuracy"], "tta_accuracy" in values))

        def finish(self, exit_code: int) -> None:
            calls.append(exit_code)

    def init(**options: Any) -> Run:
        calls.append({name: options[name] for name in ("project", "name", "id", "mode", "dir", "resume")})
        assert options["config"]["max_lr"] == TrainConfig().optim.max_lr
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=dict))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    _log("wandb", tmp_path, [1])
    _log("wandb", tmp_path, [1, 2])
    started = {"project": "mine", "name": "run", "id": calls[0]["id"], "mode": "offline", "dir": tmp_path / "logs"}
    assert calls == [
        {**started, "resume": "allow"}, (1, 0.25, False), 0, {**started, "resume": "allow"}, (2, 0.5, False), 0,
    ]  # fmt: skip


@pytest.fixture
def real_mlflow() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mlflow")


def _history(real_mlflow: Any, uri: str) -> dict[str, Any]:
    """Steps and values of the test accuracy, with the status, of each run by name."""
    client = real_mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fastcifar").experiment_id
    return {
        run.info.run_name: (
            run.info.status,
            [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "test_accuracy")],
            run.data.params["max_lr"],
        )
        for run in client.search_runs([experiment])
    }


EXPECTED = {"run": ("FINISHED", [(1, 0.25), (2, 0.5)], "0.00534"), "other": ("FINISHED", [(1, 0.25)], "0.00534")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_runs_apart_and_continues_them_in_its_own_database(
    real_mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for run, epochs in (("run", [1]), ("other", [1]), ("run", [1, 2])):
        _log("mlflow", tmp_path, epochs, run=run)
    assert _history(real_mlflow, f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}") == EXPECTED


@pytest.fixture
def mlflow_server(real_mlflow: Any, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server on the loopback interface: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *database]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_server_gets_runs_and_a_training_goes_on_when_it_is_gone(
    mlflow_server: tuple[str, subprocess.Popen[bytes]],
    real_mlflow: Any,
    betons: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    uri, server = mlflow_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for run, epochs in (("run", [1]), ("other", [1]), ("run", [1, 2])):
        _log("mlflow", tmp_path, epochs, run=run)
    assert _history(real_mlflow, uri) == EXPECTED
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    warnings.simplefilter("always", FastCifarWarning)
    given = ["--data-dir", str(betons), "--model", "dilated_cnn", "--batch-size", "100", "--epochs", "2"]
    more = ["--device", "cpu", "--no-report", "--log", "mlflow", "--run-dir", str(tmp_path / "third")]
    assert main(["train", *given, *more]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line.lower()]
    assert line.startswith("fastcifar: warning: mlflow: writing its log failed")
    assert len((tmp_path / "third" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_files_of_one_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for run, epochs in (("run", [1]), ("other", [1]), ("run", [1, 2])):
        _log("wandb", tmp_path, epochs, run=run)
    ids = {run: read_position(tmp_path / run, "wandb").id for run in ("run", "other")}  # type: ignore[union-attr]
    files = sorted((tmp_path / "logs" / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert [path.stem for path in files] == [f"run-{ids[run]}" for run in ("run", "other", "run")]
    for path in files:
        content = path.read_bytes()
        assert b"test_accuracy" in content
        assert b"max_lr" in content
