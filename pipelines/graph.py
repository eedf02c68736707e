"""The stages and what each reads: one table that the flow, DVC and the command line follow."""

from __future__ import annotations

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
