"""Where a run keeps things, what it may use and where it is tracked: no part of any stage's identity."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ddt.config import ConfigError, Count, Fraction, Natural, Positive, Range

EXPERIMENT_CHARS, MODEL_CHARS = 500, 255  # MLflow's longest experiment, and name in the registry's tables
TRAININGS = ("train_tokenizer", "pretrain", "finetune")
WITHOUT_MODELS = ("ingest", "select")  # stages whose actors have no use for an accelerator
OF_UNITS = ("ingest", "recaption", "score", "select", "tokenize_images", "evaluate")
NOT_IN_MODELS = "/:@'\""  # of the registry's references and searches


@dataclass(frozen=True)
class Paths:
    """Where things are kept. `store` may be s3://bucket/prefix; `workspace` holds manifests and reports."""

    store: str
    workspace: str


@dataclass(frozen=True)
class Prices:
    """What an hour of a core and of an accelerator costs; 0: nothing is reckoned in money."""

    currency: str
    core_hour: Annotated[float, Range(0)]
    accelerator_hour: Annotated[float, Range(0)]


@dataclass(frozen=True)
class StageResources:
    """What one stage of units sets otherwise than all of them; null: as they."""

    cpus_per_actor: Annotated[float, Range(0.1)] | None = None
    gpus_per_actor: Annotated[float, Range(0)] | None = None
    max_actors: Count | None = None


@dataclass(frozen=True)
class Resources:
    """What the run may use. `cpus` null: every core there is.

    The language model's layers are split over `tensor_parallel` workers each, and its weights with their
    gradients and moments are spread over all where `shard_weights`. `checkpoint_activations` computes a
    layer's inside again in the backward pass. None of the three changes what is computed.

    A stage of units has as many actors as there is room for now. With `max_actors` it asks a cluster for up
    to as many, and waits for nodes where there is none of their kind yet; on one machine it has no more.
    `stages` has what a stage of units sets otherwise; without it `ingest` and `select` take no accelerators.

    `tokenizer_workers` and `finetune_workers` are for their stages alone; null: `train_workers`.

    Where a worker was lost and no place is left for another, training goes on with as few as
    `min_train_workers`; null: it waits for a place. `max_failures` is how often a training may lose a worker;
    -1: always.

    In the other stages a unit of work that loses its worker, or fails in a way that may pass, is tried again
    `unit_retries` times. What then fails ends the stage, or is quarantined: named, and left out, up to
    `max_quarantine_rate` of the units of `ingest`, `recaption`, `score` and `tokenize_images`.

    A training that is told to end (SIGTERM, Ctrl-C) has `grace_s` for its step and a checkpoint.
    A stage in which nothing was done for `stalled_after_s` is told by name; null: never.

    `throughputs`, for `ddt plan`: stage -> rows an hour of a core, or of an accelerator where it has them
    (images or sequences of a training); of a stage without one the last run's is taken.
    """

    cpus: Count | None
    object_store_mb: Annotated[int, Range(80)]
    cpus_per_actor: Annotated[float, Range(0.1)]
    gpus_per_actor: Annotated[float, Range(0)]
    max_actors: Count | None
    stages: dict[str, StageResources]
    train_workers: Count
    tokenizer_workers: Count | None
    finetune_workers: Count | None
    min_train_workers: Count | None
    train_cpus_per_worker: Count | None
    tokenizer_cpus_per_worker: Count | None
    gpus_per_worker: Annotated[float, Range(0)]
    max_failures: Annotated[int, Range(-1)]
    unit_retries: Natural
    max_quarantine_rate: Fraction
    grace_s: Annotated[float, Range(0)]
    stalled_after_s: Positive | None
    tensor_parallel: Count
    shard_weights: bool
    checkpoint_activations: bool
    prices: Prices
    throughputs: dict[str, Positive]

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in OF_UNITS:
                raise ValueError(f"stages.{stage}: expected one of {', '.join(OF_UNITS)}")
        for key in ("train_workers", "finetune_workers"):
            if (getattr(self, key) or 0) % self.tensor_parallel:
                raise ValueError(
                    f"tensor_parallel = {self.tensor_parallel}: expected a divisor of "
                    f"{key} = {getattr(self, key)}"
                )
        least = self.min_train_workers
        if least is not None and least > self.train_workers:
            raise ValueError(
                f"min_train_workers = {least}: expected at most train_workers = {self.train_workers}"
            )
        if least is not None and least % self.tensor_parallel:
            raise ValueError(
                f"min_train_workers = {least}: expected a multiple of "
                f"tensor_parallel = {self.tensor_parallel}, whose workers share each layer"
            )

    def of_stage(self, stage: str) -> Resources:
        """What a stage may use. The tokenizer's training has cores of its own: curation runs beside it."""
        if stage in OF_UNITS:
            changes: dict[str, Any] = {"gpus_per_actor": 0.0} if stage in WITHOUT_MODELS else {}
            stated = dataclasses.asdict(self.stages.get(stage, StageResources()))
            changes |= {key: value for key, value in stated.items() if value is not None}
            return dataclasses.replace(self, **changes)
        if stage == "train_tokenizer":
            cpus = self.tokenizer_cpus_per_worker or self.train_cpus_per_worker
            own = dataclasses.replace(self, train_cpus_per_worker=cpus, tensor_parallel=1)
            return own._with_workers(self.tokenizer_workers)
        return self._with_workers(self.finetune_workers) if stage == "finetune" else self

    def taken_by(self, stage: str, cores: int) -> tuple[float, float]:
        """Cores and accelerators that a stage keeps from others, of a cluster of `cores`."""
        own = self.of_stage(stage)
        if stage == "promote":
            return 1.0, 0.0
        if stage in TRAININGS:
            each = own.train_cpus_per_worker or cores / own.train_workers
            return min(float(cores), own.train_workers * each), own.train_workers * own.gpus_per_worker
        return float(cores), own.actors_on(cores) * own.gpus_per_actor

    def actors_on(self, cores: int) -> int:
        """How many actors so many cores have room for."""
        room = int(cores // self.cpus_per_actor)
        return room if self.max_actors is None else min(room, self.max_actors)

    def _with_workers(self, workers: int | None) -> Resources:
        """The same with so many workers; a group that is smaller than `min_train_workers` waits for all."""
        if workers is None:
            return self
        least = self.min_train_workers and min(self.min_train_workers, workers)
        return dataclasses.replace(self, train_workers=workers, min_train_workers=least)


@dataclass(frozen=True)
class Tracking:
    """The MLflow server or database, the experiment's name and those of the registered models.

    `artifacts` is where pictures, pages and models go without a server; null: below `paths.store` where that
    is on S3 (`Params` puts it in), else beside the database.
    """

    uri: str
    artifacts: str | None
    experiment: str
    tokenizer_name: str
    model_name: str

    def __post_init__(self) -> None:
        if not self.uri.strip():
            raise ConfigError(f"tracking.uri = {self.uri!r}: expected a database or server")
        _check_name("tracking.experiment", self.experiment, EXPERIMENT_CHARS)
        for key in ("tokenizer_name", "model_name"):
            name = getattr(self, key)
            _check_name(f"tracking.{key}", name, MODEL_CHARS)
            if set(name) & set(NOT_IN_MODELS) or name.startswith("."):
                refused = " ".join(NOT_IN_MODELS)
                raise ConfigError(f"tracking.{key} = {name!r}: expected none of {refused}, and no dot first")
        if self.tokenizer_name == self.model_name:
            raise ConfigError(
                f"tracking.tokenizer_name = {self.tokenizer_name!r}: expected another name than model_name"
            )


@dataclass(frozen=True)
class Notify:
    """When somebody is told that a run has ended, and the environment variable that has the address to tell.

    The address may hold a secret, as Slack's do: it stands in no file.
    """

    when: tuple[Literal["success", "failure"], ...]
    url_variable: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.url_variable):  # perhaps the address: not shown
            raise ConfigError("notify.url_variable: expected the name of an environment variable")


def _check_name(key: str, name: str, most: int) -> None:
    """ConfigError for a name that MLflow refuses, or that would not be found again."""
    if not name or name != name.strip() or not name.isprintable() or len(name) > most:
        shown = name if len(name) <= most else f"{name[:20]}..."
        raise ConfigError(
            f"{key} = {shown!r}: expected 1 to {most} printable characters, no space at the ends"
        )
