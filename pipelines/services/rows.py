"""What is read of MLflow's runs and versions, whoever reads it, and how runs are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

AT_ONCE = 1000  # runs or versions asked for at a time
# MLflow's codes for what it does not have.
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter of an alias


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


def with_tags(tags: Mapping[str, str]) -> str:
    """MLflow's filter for runs with these tags; a value's % is any ending."""
    like = {key: "LIKE" if value.endswith("%") else "=" for key, value in tags.items()}
    return " and ".join(f"tags.`{key}` {like[key]} '{value}'" for key, value in tags.items())


def by_start(newest: bool) -> list[str]:
    """MLflow's order of runs, the newest or the oldest first."""
    return [f"attributes.start_time {'DESC' if newest else 'ASC'}"]
