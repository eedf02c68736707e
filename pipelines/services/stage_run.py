"""The MLflow run of one stage, from its first second to its end, however that comes.

Only the driver of a stage writes to its run. Metrics of training and of the machine are written while it goes
on, by a thread that no step waits for.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ddt.clean import one_line
from ddt.sections.run import Tracking
from pipelines.reports.report import Report
from pipelines.services import tracking as mlflow_runs
from pipelines.services.failures_told import FAILURE, tell_failure
from pipelines.services.passwords import without
from pipelines.services.surroundings import process_mark
from pipelines.services.system_metrics import SystemMetrics

FLUSH_S = 10.0  # between two batches of metrics: writing one takes some 20 ms of a core
ROOT = Path(__file__).resolve().parents[2]
Point = tuple[str, int, float]  # name, step, value
logger = logging.getLogger(__name__)


class StageRun:
    """A run that has begun; `finish` or `end` closes it."""

    def __init__(
        self,
        tracking: Tracking,
        stage: str,
        fingerprint: str,
        section: dict[str, Any],
        inputs: Mapping[str, tuple[str, str]],
        workspace: Path,
        parent: str | None,
        flush_s: float = FLUSH_S,
    ) -> None:
        self.tracking, self.workspace, self.flush_s = tracking, workspace, flush_s
        self.client = mlflow_runs.client(tracking)
        experiment = mlflow_runs.experiment_id(tracking, self.client)
        mlflow_runs.close_dead(self.client, experiment)
        tags = {
            "stage": stage,
            "fingerprint": fingerprint,
            mlflow_runs.PROCESS: process_mark(),
        } | commit_tag()
        if parent:
            tags["mlflow.parentRunId"] = parent
            # A run that is resumed was closed, and another process is its flow now.
            self.client.update_run(parent, status="RUNNING")
            self.client.set_tag(parent, mlflow_runs.PROCESS, process_mark(os.getppid()))
        self.id = str(self.client.create_run(experiment, run_name=stage, tags=tags).info.run_id)
        mlflow_runs.log_inputs(self.client, self.id, section, inputs)
        self._waiting: list[Point] = []
        self._written: set[Point] = set()
        self._system = SystemMetrics(tracking, self.id)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._writer = threading.Thread(target=self._write_along, name="mlflow-metrics", daemon=True)
        self._writer.start()

    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Take metrics of a step; returns at once. Those numbered by token become a plot, no curves."""
        points = [(name, step, float(value)) for name, value in metrics.items() if not _numbered(name)]
        with self._lock:
            self._waiting += points

    def finish(self, report: Report) -> None:
        """Write all that the stage tells and close the run as finished."""
        self._stop()
        curves = [(name, int(step), float(v)) for name, curve in report.curves.items() for step, v in curve]
        with self._lock:
            missing = [point for point in curves if point not in self._written]
            missing += [point for point in self._waiting if point[0] not in report.curves]
        mlflow_runs.log_points(self.client, self.id, missing)
        mlflow_runs.log_report(self.client, self.id, report, self.workspace)
        self.client.set_terminated(self.id)

    def end(self, error: BaseException) -> None:
        """Close the run of a stage that did not finish, with the reason and a failed gate's page.

        Raises nothing: `error` is what has to be told.
        """
        self._stop()
        failed = isinstance(error, Exception)
        try:
            self._write()
            reason = without(one_line(error), self.tracking.uri)
            if failed:
                tell_failure(self.client, self.tracking, self.id, reason, getattr(error, "page", None))
            else:
                self.client.set_tag(self.id, FAILURE, reason)
            self.client.set_terminated(self.id, "FAILED" if failed else "KILLED")
        except Exception as failure:  # a server that is away as well
            logger.warning("MLflow run %s is not closed: %s", self.id, one_line(failure))

    def _stop(self) -> None:
        self._ended.set()
        self._writer.join(self.flush_s)
        self._sample(at_once=True)

    def _write_along(self) -> None:
        while not self._ended.wait(self.flush_s):
            try:
                self._sample()
                self._write()
            except Exception as error:  # they are written with the next, or at the end
                logger.warning("metrics wait for MLflow: %s", one_line(error))

    def _sample(self, at_once: bool = False) -> None:
        points = self._system.sample(at_once)
        with self._lock:
            self._waiting += points

    def _write(self) -> None:
        """What waits; it waits on where MLflow does not take it."""
        with self._lock:
            points, self._waiting = self._waiting, []
        try:
            mlflow_runs.log_points(self.client, self.id, points)
        except Exception:
            with self._lock:
                self._waiting = points + self._waiting
            raise
        with self._lock:
            self._written.update(points)


def _numbered(name: str) -> bool:
    return name.rpartition("/")[2].isdigit()


@cache
def commit_tag() -> dict[str, str]:
    """The repository's commit by MLflow's own name for it; nothing where there is none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()}
