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
    parts = [token_nll(x, y, IGNORED) for x, y in zip(logits_BLV, targets_BL, strict=True)]
    return [total / count for total, count in parts]
