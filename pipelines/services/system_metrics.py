"""System metrics of a run by MLflow's own sampling: processor, memory, disk, network, accelerators.

MLflow's monitor would write them itself, in a thread that ends for good where the server is away once, and
for whose end it waits without limit. So only its sampling is used here, and `stage_run` writes.
They are of the machine that the driver is on, named and switched as MLflow says: `system/...`,
MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from ddt.clean import one_line
from ddt.sections.run import Tracking
from pipelines.services import tracking as mlflow_runs
from pipelines.services.passwords import whole

PREFIX = "system/"
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples for one run, numbered from 0; the first is due one interval after the beginning.

    A machine that can't be asked stops no stage: there is a warning, and no samples.
    """

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._monitor: Any = None
        self._due, self._number = 0.0, 0
        if os.environ.get(SWITCH, "true").lower() in ("false", "0"):
            return
        try:
            monitor = mlflow_runs.api("system_metrics.system_metrics_monitor").SystemMetricsMonitor
            self._monitor = monitor(run_id, tracking_uri=whole(tracking.uri))
        except Exception as error:
            logger.warning("no system metrics: %s", one_line(error))
        self._sampled()  # what the processor did is told as its share since the sample before

    def sample(self, at_once: bool = False) -> list[tuple[str, int, float]]:
        """(name, number, value) of now; empty where none is due yet, unless `at_once`, or all is off."""
        if time.monotonic() < self._due and not at_once:
            return []
        values = self._sampled()
        self._number += 1
        return [(f"{PREFIX}{name}", self._number - 1, float(value)) for name, value in values.items()]

    def _sampled(self) -> dict[str, float]:
        if self._monitor is None:
            return {}
        self._due = time.monotonic() + self._monitor.sampling_interval
        try:
            self._monitor.collect_metrics()
            values = self._monitor.aggregate_metrics()
            for each in self._monitor.monitors:
                each.clear_metrics()
        except Exception as error:
            logger.warning("no system metrics any more: %s", one_line(error))
            self._monitor = None
            return {}
        return values
