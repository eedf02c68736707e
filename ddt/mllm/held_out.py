"""What a model has learned of pictures that it has not seen, and whether it reads their captions.

T image tokens, L tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ddt.data.tokens import TokenDataset
from ddt.mllm import sequences as S
from ddt.mllm.batches import Draw, PackedBatches
from ddt.mllm.sequences import Example, SequenceBuilder
from ddt.train.batching import to_device
from ddt.train.parallel import ShardedLoss
from ddt.train.precision import autocast

MOST_PAIRS = 512
PAIRS_AT_ONCE = 64


class ListedBatches(PackedBatches):
    """Examples in their order, so many a batch."""

    def __init__(self, listed: Sequence[Example], builder: SequenceBuilder, row_length: int) -> None:
        super().__init__(builder, PAIRS_AT_ONCE, row_length, seed=0)
        self.listed = listed

    def draws(self, numbers: np.ndarray) -> list[Draw]:
        return [(number,) for number in numbers if number < len(self.listed)]

    def example(self, number: int) -> Example:  # type: ignore[override]
        return self.listed[number]

    def __len__(self) -> int:
        return -(-len(self.listed) // self.samples_per_step)


def held_out_metrics(
    model: PreTrainedModel,
    loss: Any,
    pairs: TokenDataset,
    builder: SequenceBuilder,
    row_length: int,
    bf16: bool,
) -> dict[str, float]:
    """Nats a visual token of the first pairs that have a native caption (or a class that the model knows).

    `visual_ce` with the pair's own caption, `visual_ce_shuffled` with another pair's: where the two are
    alike the caption is not read. `unigram_entropy` is that of these very codes: what guessing each by how
    often it occurs leaves. Empty where fewer than two pairs have a caption. `loss` is what `fit` takes;
    processes that share the model must all call this.
    """
    template, field = (S.CLASS_TO_IMAGE, "class") if builder.classes else (S.PRETRAIN, "caption")
    texts = [(row, pairs.text("short", row)) for row in range(min(len(pairs), MOST_PAIRS))]
    usable = [(row, text) for row, text in texts if text and (not builder.classes or text in builder.classes)]
    if len(usable) < 2:
        return {}
    images = [pairs.codes(row) for row, _ in usable]
    captions = [text for _, text in usable]
    call = loss if isinstance(loss, ShardedLoss) else partial(loss, model)

    def visual_ce(captions: Sequence[str]) -> float:
        examples: list[Example] = [
            (template, {field: caption, "image": codes})
            for caption, codes in zip(captions, images, strict=True)
        ]
        return _visual_ce(model, call, ListedBatches(examples, builder, row_length), bf16)

    share = np.bincount(np.concatenate(images)) / (len(images) * builder.num_tokens)
    return {
        "held_out/visual_ce": visual_ce(captions),
        "held_out/visual_ce_shuffled": visual_ce([*captions[1:], captions[0]]),
        "held_out/unigram_entropy": float(-(share[share > 0] * np.log(share[share > 0])).sum()),
    }


@torch.no_grad()
def _visual_ce(model: PreTrainedModel, call: Any, batches: ListedBatches, bf16: bool) -> float:
    """Mean over all visual tokens of the batches."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total = count = 0.0
    for number in range(len(batches)):
        batch = to_device(batches.batch(number), device)
        with autocast(device, bf16):
            _, metrics = call(batch, 0, None)
        learned = int((batches.builder.vocabulary.is_visual(batch.ids_RL) & batch.learned_RL).sum())
        total += float(metrics["visual_ce"]) * learned
        count += learned
    model.train(was_training)
    return total / count
