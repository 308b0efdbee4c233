"""Logs a run's settings and metrics to an MLflow tracking server, beside the files in its folder.

The server is that of MLflow's own variables: MLFLOW_TRACKING_URI, and MLFLOW_RUN_ID or MLFLOW_EXPERIMENT_NAME. Metrics
are sent from a thread, so that a slow server does not slow training, and an unreachable one does not stop it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_large.errors import InputError
from bert_large.extras import missing_extra
from bert_large.log import LOGGER
from bert_large.observe.metrics import METRICS_FILE, EvalMetrics, StepMetrics, finite_or_none
from bert_large.observe.observer import Observer
from bert_large.storage.atomic import read_json, write_json

if TYPE_CHECKING:
    from mlflow.entities import Metric

RUN_FILE = "mlflow.json"
"""File in the output folder that names the MLflow run, so that a resumed run continues it."""
_DEFAULT_EXPERIMENT = "bert-large"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
"""Limits of one request."""
_CLOSE_SECONDS = 60.0
"""Longest wait at the end of a run for metrics that have not been sent."""


def check_mlflow() -> None:
    """Raise `InputError` if MLflow is not installed or no tracking server is named."""
    if importlib.util.find_spec("mlflow") is None:
        raise missing_extra("--mlflow", "mlflow", "the package mlflow-skinny is missing")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "--mlflow needs the variable MLFLOW_TRACKING_URI, the address of a tracking server; it is not set"
        )


class MlflowLogger(Observer):
    """Logs each step and evaluation once, also after a resume: MLflow cannot delete a logged metric."""

    def __init__(self, output_dir: Path, parameters: Mapping[str, Any]) -> None:
        """Open the run that MLFLOW_RUN_ID or an earlier process names, or create one; log its missing parameters.

        Raises `InputError` if the server refuses that or cannot be reached.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._status = "KILLED"
        self._owns_run = not os.environ.get("MLFLOW_RUN_ID")
        try:
            self._client = MlflowClient()
            self._run_id = os.environ.get("MLFLOW_RUN_ID") or self._own_run(output_dir)
            self._log_parameters(parameters)
            self._last_steps = {group: self._last_step(f"{group}/masked_lm_loss") for group in ("train", "eval")}
        except (MlflowException, OSError) as error:
            raise InputError(f"--mlflow: {os.environ['MLFLOW_TRACKING_URI']}: {_one_line(error)}") from None
        self._pending: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()
        LOGGER.info("metrics are logged to MLflow run %s at %s", self._run_id, os.environ["MLFLOW_TRACKING_URI"])

    def step(self, metrics: StepMetrics) -> None:
        """Log one step's metrics."""
        self._log("train", metrics.step, dataclasses.asdict(metrics))

    def evaluation(self, step: int, samples: int, metrics: EvalMetrics) -> None:
        """Log an evaluation's metrics."""
        self._log("eval", step, dataclasses.asdict(metrics) | {"samples": samples, "eval_samples": metrics.samples})

    def run_ends(self, samples: int, reached_target: bool) -> None:
        """Mark the run as finished when it is closed."""
        self._status = "FINISHED"

    def run_fails(self) -> None:
        """Mark the run as failed."""
        self._status = "FAILED"
        self.close()

    def close(self) -> None:
        """Send what is pending and set the status of a run created here, but wait for a limited time only."""
        self._pending.put(None)
        self._sender.join(_CLOSE_SECONDS)
        if self._sender.is_alive():
            LOGGER.warning("warning: MLflow does not answer: the last metrics are only in %s", METRICS_FILE)

    def _own_run(self, output_dir: Path) -> str:
        """Return the run of this output folder, created if there is none at this server."""
        path, server = output_dir / RUN_FILE, os.environ["MLFLOW_TRACKING_URI"]
        known = read_json(path) if path.exists() else {}
        if known.get("tracking_uri") == server:
            self._client.update_run(known["run_id"], status="RUNNING")
            return str(known["run_id"])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _DEFAULT_EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        run_id = str(self._client.create_run(experiment, run_name=output_dir.name).info.run_id)
        write_json(path, {"tracking_uri": server, "run_id": run_id})
        return run_id

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have: a logged one cannot change, as it may when a run resumes."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        new = [Param(name, str(value)) for name, value in parameters.items() if name not in known]
        for first in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=new[first : first + _MOST_PARAMETERS])

    def _last_step(self, name: str) -> int:
        """Return the last step for which a metric was logged, -1 if there is none."""
        return max((metric.step for metric in self._client.get_metric_history(self._run_id, name)), default=-1)

    def _log(self, group: str, step: int, values: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if step <= self._last_steps[group]:
            return
        now = int(time.time() * 1000)
        values = {name: value for name, value in finite_or_none(values).items() if name != "step" and value is not None}
        self._pending.put([Metric(f"{group}/{name}", float(value), now, step) for name, value in values.items()])

    def _send_all(self) -> None:
        """Send pending metrics, together as far as they have piled up, until `close`."""
        is_open, has_failed = True, False
        while is_open:
            batch: list[Metric] = []
            entry = self._pending.get()
            while entry is not None:
                batch += entry
                if self._pending.empty() or len(batch) > _MOST_METRICS - len(entry):
                    break
                entry = self._pending.get()
            is_open = entry is not None
            try:
                if batch:
                    self._client.log_batch(self._run_id, metrics=batch)
                if not is_open and self._owns_run:
                    self._client.set_terminated(self._run_id, self._status)
            except Exception as error:  # of the client or of any store's plugin: the run must not end with it
                if not has_failed:
                    LOGGER.warning(
                        "warning: MLflow: %s; metrics that are missing there are in %s", _one_line(error), METRICS_FILE
                    )
                has_failed = True


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
