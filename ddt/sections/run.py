"""Where a run keeps things, what it may use and where it is tracked: no part of any stage's identity."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from ddt.config import Count, Range


@dataclass(frozen=True)
class Paths:
    """Where things are kept. `store` may be s3://bucket/prefix; `workspace` holds manifests and reports."""

    store: str
    workspace: str


@dataclass(frozen=True)
class Resources:
    """What the run may use. `cpus` null: every core there is.

    The language model's layers are split over `tensor_parallel` workers each, and its weights with their
    gradients and moments are spread over all where `shard_weights`. `checkpoint_activations` computes a
    layer's inside again in the backward pass. None of the three changes what is computed.

    Where a worker was lost and no place is left for another, training goes on with as few as
    `min_train_workers`; null: it waits for a place.
    """

    cpus: Count | None
    object_store_mb: Annotated[int, Range(80)]
    cpus_per_actor: Annotated[float, Range(0.1)]
    gpus_per_actor: Annotated[float, Range(0)]
    train_workers: Count
    min_train_workers: Count | None
    train_cpus_per_worker: Count | None
    tokenizer_cpus_per_worker: Count | None
    gpus_per_worker: Annotated[float, Range(0)]
    max_failures: Annotated[int, Range(-1)]
    tensor_parallel: Count
    shard_weights: bool
    checkpoint_activations: bool

    def __post_init__(self) -> None:
        if self.train_workers % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel}: expected a divisor of "
                f"train_workers = {self.train_workers}"
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
        """What a training stage may use. The tokenizer's has cores of its own: curation runs beside it."""
        cpus = self.tokenizer_cpus_per_worker
        if stage != "train_tokenizer" or cpus is None:
            return self
        return dataclasses.replace(self, train_cpus_per_worker=cpus)


@dataclass(frozen=True)
class Tracking:
    """The MLflow server or database and the experiment's name."""

    uri: str
    experiment: str
    tokenizer_name: str
    model_name: str
