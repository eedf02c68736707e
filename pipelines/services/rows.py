"""What is read of MLflow's runs and versions, whoever reads it."""

from __future__ import annotations

from typing import NamedTuple


class RunRow(NamedTuple):
    """A run; `start_time` in milliseconds, `sources` of the datasets that it read as MLflow keeps them."""

    id: str
    status: str
    start_time: int
    lifecycle_stage: str
    tags: dict[str, str]
    params: dict[str, str]
    sources: list[str]


class VersionRow(NamedTuple):
    """A registered version."""

    name: str
    number: int
    run_id: str | None
    tags: dict[str, str]
