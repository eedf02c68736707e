"""The stages and what each reads: one table that the flow, DVC and the command line follow."""

from __future__ import annotations

from collections.abc import Mapping

INPUTS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "recaption": ("ingest",),
    "score": ("ingest", "recaption"),
    "select": ("ingest", "recaption", "score"),
    "train_tokenizer": ("ingest",),
    "tokenize_images": ("ingest", "select", "train_tokenizer"),
    "pretrain": ("train_tokenizer", "tokenize_images"),
    "finetune": ("train_tokenizer", "tokenize_images", "pretrain"),
    "evaluate": ("ingest", "train_tokenizer", "finetune"),
    "promote": ("train_tokenizer", "finetune", "evaluate"),
}
STAGES = tuple(INPUTS)
QUARANTINES = ("ingest", "recaption", "score", "tokenize_images")  # of use without a few of their units


def ancestors(stage: str) -> frozenset[str]:
    """All stages that must be done before this one."""
    return frozenset(INPUTS[stage]).union(*map(ancestors, INPUTS[stage]))


def beside(stage: str) -> tuple[str, ...]:
    """The stages that may run at the same time: neither before this one nor after it."""
    before = ancestors(stage) | {stage}
    return tuple(name for name in STAGES if name not in before and stage not in ancestors(name))


def longest_chain(seconds: Mapping[str, float]) -> float:
    """Seconds that a run needs at least: the stages that read each other's results, one after another."""
    ends: dict[str, float] = {}
    for stage, inputs in INPUTS.items():
        ends[stage] = seconds.get(stage, 0.0) + max((ends[name] for name in inputs), default=0.0)
    return max(ends.values())
