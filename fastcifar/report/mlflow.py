"""A log of a run for MLflow: on the server that MLFLOW_TRACKING_URI names, or in a local database."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.report.run_log import Outcome
from fastcifar.runs.log_position import LogPosition, read_position, write_position
from fastcifar.runs.results import EpochResult

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_PARAMS = 100
"""Parameters that one request may have."""
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow waits for minutes for a server that is gone; a training should not."""
QUIETER = {"mlflow.store.db": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
"""Loggers that would print lines for each new database, and for each attempt to reach a server."""


class MLflowLog:
    """Writes a run's settings as parameters, and the numbers of each epoch as metrics with the epoch as their step.

    The run begins with the first epoch. Its experiment is the one that MLFLOW_EXPERIMENT_NAME names, or "fastcifar".
    """

    def __init__(self, log_dir: Path, config: TrainConfig) -> None:
        """Use `log_dir`/mlflow.db if MLFLOW_TRACKING_URI is not set.

        Raises:
            ImportError: MLflow is not installed.
        """
        from mlflow import MlflowClient

        for logger, level in QUIETER.items():
            logging.getLogger(logger).setLevel(level)
        for name, value in REQUESTS.items():
            os.environ.setdefault(name, value)
        assert config.run_dir is not None
        self._config, self._run_dir, self._log_dir = config, config.run_dir, log_dir
        self._client_type = MlflowClient
        self._position: LogPosition | None = None

    def epoch(self, result: EpochResult) -> None:
        """Write the numbers of an epoch that is not there yet; its texts become tags."""
        from mlflow.entities import Metric, RunTag

        position = self._position or self._start()
        if result.epoch > position.epoch:
            values, now = result.to_json(), int(1000 * time.time())
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
            metrics = [Metric(name, value, now, result.epoch) for name, value in numbers.items()]
            tags = [RunTag(name, value) for name, value in values.items() if isinstance(value, str)]
            self._client.log_batch(position.id, metrics=metrics, tags=tags)
            position = LogPosition(id=position.id, epoch=result.epoch)
            write_position(self._run_dir, "mlflow", position)
        self._position = position

    def close(self, outcome: Outcome) -> None:
        """Set the status of the run."""
        if self._position is not None:
            self._client.set_terminated(self._position.id, STATUS[outcome])

    def _start(self) -> LogPosition:
        """Continue the run of this run folder, or create one if the server has none."""
        self._client = self._client_type(tracking_uri=self._tracking_uri())
        saved = read_position(self._run_dir, "mlflow")
        if saved is not None and self._exists(saved.id):
            self._client.update_run(saved.id, status="RUNNING")
            return saved
        name = self._run_dir.resolve().name
        run = self._client.create_run(self._experiment(), run_name=name, tags={"run_dir": str(self._run_dir)})
        self._log_settings(run.info.run_id)
        return LogPosition(id=run.info.run_id)

    def _tracking_uri(self) -> str:
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return uri
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{self._log_dir.resolve() / 'mlflow.db'}"

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _experiment(self) -> str:
        """Return the id of the experiment, which another process may create at the same time."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastcifar")
        try:
            if (found := self._client.get_experiment_by_name(name)) is None:
                return str(self._client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _log_settings(self, run_id: str) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in self._config.to_json().items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
