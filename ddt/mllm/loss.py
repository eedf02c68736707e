"""Next-token cross-entropy over both modalities, without ever holding all logits.

N learned tokens, D width, V vocabulary, R rows, L tokens in a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ddt.mllm.packing import PackedBatch, additive_mask
from ddt.mllm.vocabulary import Vocabulary

# Logits alive at once: 2**24 float32 are 64 MiB, at V = 193,794 those of 86 tokens, at V = 1,000 of a batch.
CHUNK_LOGITS = 1 << 24


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Token losses and, in the same pass, the gradients of their sum: each chunk's logits exist once."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float | None
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        compute = _matmul_dtype(hidden_ND)
        head = head_VD.to(compute)
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_head = torch.zeros_like(head_VD, dtype=torch.float32) if needs_head else None
        step = max(1, CHUNK_LOGITS // len(head_VD))
        for start in range(0, len(targets_N), step):
            span = slice(start, start + step)
            hidden, targets = hidden_ND[span].to(compute), targets_N[span, None]
            logits = (hidden @ head.t()).float()
            slope = None
            if softcap is not None:
                squashed = torch.tanh(logits / softcap)
                logits, slope = squashed * softcap, 1 - squashed.square()
            top = logits.amax(dim=1, keepdim=True)
            picked = logits.gather(1, targets) - top
            weights = logits.sub_(top).exp_()
            total = weights.sum(dim=1, keepdim=True)
            losses_N[span] = (total.log() - picked)[:, 0]
            if grad_hidden is None and grad_head is None:
                continue
            gradient = weights.div_(total)
            gradient.scatter_add_(1, targets, torch.full_like(picked, -1.0))
            gradient = (gradient if slope is None else gradient * slope).to(compute)
            if grad_hidden is not None:
                grad_hidden[span] = (gradient @ head).to(grad_hidden.dtype)
            if grad_head is not None:
                grad_head += (gradient.t() @ hidden).float()
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> Any:
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad_sum,
            None if grad_head is None else (grad_head * grad_sum).to(ctx.head_dtype),
            None,
            None,
        )


def _matmul_dtype(tensor: Tensor) -> torch.dtype:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def chunked_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy (with gradient) and that of each token (without), float32.

    `softcap` is Gemma-2's bound on logits, c * tanh(logit / c).
    """
    return _ChunkedCrossEntropy.apply(hidden_ND, head_VD, targets_N, softcap)


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
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

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
        total, losses_N = chunked_cross_entropy(hidden_ND, head, targets_N, softcap)
        loss = total * batch.scale_R[0] / len(batch.ids_RL)
        metrics = {"row_fill": (batch.document_RL > 0).float().mean()}
        visual_N = self.vocabulary.is_visual(targets_N)
        # A modality that a micro-batch does not hold is left out of the averages rather than counted as 0.
        for name, where_N in (("text", ~visual_N), ("visual", visual_N)):
            if where_N.any():
                metrics[f"{name}_ce"] = losses_N[where_N].mean()
        if "text_ce" in metrics:
            metrics["text_perplexity"] = metrics["text_ce"].exp()
        return loss, metrics
