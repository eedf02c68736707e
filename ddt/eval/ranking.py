"""Answer ranking: how unlikely a model finds each option as the answer to a question about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ddt.eval.metrics import token_nll
from ddt.mllm.sequences import ANSWER, Example

IGNORED = -100


def option_losses(model: Any, codes_T: np.ndarray, question: str, options: Sequence[str]) -> list[float]:
    """Mean loss per token of each option as the answer, [EOS] left out."""
    return [loss for loss, _ in judge_options(model, codes_T, question, options)]


def judge_options(
    model: Any, codes_T: np.ndarray, question: str, options: Sequence[str]
) -> list[tuple[float, bool]]:
    """`option_losses`, each with whether the option is what the model would write greedily."""
    examples: list[Example] = [
        (ANSWER, {"image": codes_T, "instruction": question, "answer": option}) for option in options
    ]
    documents = model.builder.documents(examples)
    longest = max(len(document) for document in documents)
    eos = model.vocabulary.eos
    ids_BL = np.full((len(documents), longest), eos)
    targets_BL = np.full((len(documents), longest), IGNORED)
    for row, document in enumerate(documents):
        length = len(document)
        ids_BL[row, :length] = document.ids
        counted = document.learned[1:] & (document.ids[1:] != eos)
        targets_BL[row, : length - 1] = np.where(counted, document.ids[1:], IGNORED)
    device = next(model.model.parameters()).device
    with torch.no_grad():
        # Padding stands behind the text, where causal attention never looks.
        logits_BLV = model.model(input_ids=torch.from_numpy(ids_BL).to(device)).logits.float().cpu()
    judged = []
    for logits_LV, targets_L in zip(logits_BLV, targets_BL, strict=True):
        total, count = token_nll(logits_LV, targets_L, IGNORED)
        written = logits_LV.argmax(-1).numpy()[targets_L != IGNORED]
        judged.append((total / count, bool((written == targets_L[targets_L != IGNORED]).all())))
    return judged
