"""Next-token cross-entropy over both modalities (paper section 4, Eq. 2).

N learned tokens, D width, R rows, L tokens in a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ddt.mllm.cross_entropy import chunked_cross_entropy
from ddt.mllm.packing import PackedBatch, additive_mask
from ddt.mllm.vocabulary import Vocabulary


def hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Last hidden states [R, L, D] of packed rows."""
    mask = additive_mask(batch.document_RL, model.dtype)
    # Models with several kinds of attention (Gemma-2) take one mask for each. Their window is not shorter
    # than a row (`check_row_length`), so inside a document the two agree.
    kinds = sorted(set(getattr(model.config, "layer_types", None) or []))
    masks: Any = dict.fromkeys(kinds, mask) if kinds else mask
    return model.model(
        input_ids=batch.ids_RL, attention_mask=masks, position_ids=batch.position_RL, use_cache=False
    ).last_hidden_state


class LanguageModelLoss:
    """(model, batch, step, generator) -> (loss, metrics), for `ddt.train.fit`.

    The loss is the plain mean over learned tokens of both modalities (paper section 4). Metrics: mean
    cross-entropy of text and of visual tokens in nats, the text's perplexity, and how full the rows are.
    `z_loss` is the weight of a penalty on the square of the log-sum-exp; cross-entropies are without it.
    """

    def __init__(self, vocabulary: Vocabulary, z_loss: float = 0.0) -> None:
        self.vocabulary, self.z_loss = vocabulary, z_loss

    def __call__(
        self, model: PreTrainedModel, batch: PackedBatch, step: int, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        hidden_RLD = hidden_states(model, batch)
        # Position i predicts token i + 1; a document's first token ([BOS]) is never learned.
        predicted_RL = batch.learned_RL[:, 1:]
        targets_N = batch.ids_RL[:, 1:][predicted_RL]
        head = model.get_output_embeddings().weight
        softcap = getattr(model.config, "final_logit_softcapping", None)
        hidden_ND = hidden_RLD[:, :-1][predicted_RL]
        total, losses_N = chunked_cross_entropy(hidden_ND, head, targets_N, softcap, self.z_loss)
        loss = total * batch.scale_R[0] / len(batch.ids_RL)
        metrics = {"row_fill": (batch.document_RL > 0).float().mean()}
        visual_N = self.vocabulary.is_visual(targets_N)
        # A modality that a micro-batch does not hold is left out of the averages rather than counted as 0.
        for name, where_N in (("text", ~visual_N), ("visual", visual_N)):
            if where_N.any():
                metrics[f"{name}_ce"] = losses_N[where_N].mean()
        return loss, metrics
