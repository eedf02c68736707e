"""Batched generation of images and text with a key-value cache.

B sequences, T image tokens, K codebook size, V vocabulary, D width, L prompt length.
Prompts of different lengths are padded on the left and keep their own positions, so a batch gives what each
prompt gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ddt.mllm.config import SamplingConfig
from ddt.mllm.sampling import draw, guided, uniforms
from ddt.mllm.vocabulary import Vocabulary

OnToken = Callable[[Tensor], None]


class Decoder:
    """Left-padded prompts under way: feeds tokens to the model and keeps cache, mask and positions.

    The logits it returns are those of one slice of the vocabulary only: a modality mask that costs less than
    no mask.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[np.ndarray], vocabulary: Vocabulary) -> None:
        self.model, self.device = model, next(model.parameters()).device
        longest = max(map(len, prompts))
        padded = [np.concatenate([np.full(longest - len(p), vocabulary.pad), p]) for p in prompts]
        real = [np.arange(longest) >= longest - len(p) for p in prompts]
        self._next_BL = torch.from_numpy(np.stack(padded).astype(np.int64)).to(self.device)
        self._mask_BL = torch.from_numpy(np.stack(real)).long().to(self.device)
        self._position_BL = (self._mask_BL.cumsum(dim=1) - 1).clamp(min=0)
        self._cache: Any = DynamicCache(config=model.config)

    def logits(self, *parts: slice) -> Tensor:
        """float32 [B, rows]: scores of those vocabulary rows, in that order, for each next token."""
        hidden_BLD = self.model.model(
            input_ids=self._next_BL,
            attention_mask=self._mask_BL,
            position_ids=self._position_BL,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        head_VD = self.model.get_output_embeddings().weight
        logits_BV = torch.cat([F.linear(hidden_BLD[:, -1], head_VD[rows]) for rows in parts], dim=1).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits_BV if cap is None else torch.tanh(logits_BV / cap) * cap

    def append(self, ids_B: Tensor) -> None:
        """The next token of each sequence."""
        self._next_BL = ids_B[:, None]
        self._mask_BL = F.pad(self._mask_BL, (0, 1), value=1)
        self._position_BL = self._position_BL[:, -1:] + 1


def _autocast(model: PreTrainedModel) -> Any:
    # float32 weights were trained under bf16 autocast; on CPU float32 keeps batches of any size equal.
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.inference_mode()
def generate_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray],
    num_tokens: int,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    on_token: OnToken | None = None,
) -> Tensor:
    """Exactly T visual ids, int64 [B, T] on the CPU, after prompts that end in [BOV].

    `unconditional` are the same prompts with the caption dropped; they are not computed where guidance is 1.
    `on_token` sees the ids so far, [B, t], after each token. Same seed, same ids, whatever the batch.
    """
    count, visual = len(prompts), vocabulary.visual
    is_guided = sampling.cfg_scale != 1
    uniform_BT = uniforms(seeds, num_tokens)
    drawn: list[Tensor] = []
    with _autocast(model):
        decoder = Decoder(model, [*prompts, *unconditional] if is_guided else prompts, vocabulary)
        for place in range(num_tokens):
            logits = decoder.logits(visual)
            if is_guided:
                logits = guided(logits[:count], logits[count:], sampling.cfg_scale)
            codes_B = draw(
                logits,
                uniform_BT[:, place],
                sampling.visual_temperature,
                sampling.visual_top_k,
                sampling.visual_top_p,
            )
            ids_B = codes_B + visual.start
            drawn.append(ids_B.cpu())
            if on_token is not None:
                on_token(torch.stack(drawn, dim=1))
            decoder.append(torch.cat([ids_B, ids_B]) if is_guided else ids_B)
    return torch.stack(drawn, dim=1)


def generate_text(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    sampling: SamplingConfig,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Text ids after each prompt, up to EOS (left out) or `max_new_tokens`; visual ids are masked."""
    rows = text_segments(model, vocabulary, prompts, sampling, seeds, may_draw=False)
    return [row[:-1] if row[-1] == vocabulary.eos else row for row in rows]


@torch.inference_mode()
def text_segments(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    sampling: SamplingConfig,
    seeds: Sequence[int],
    may_draw: bool,
) -> list[list[int]]:
    """Text ids after each prompt up to EOS, or up to [BOV] where the model `may_draw`; both are kept."""
    if not prompts:
        return []
    parts = [slice(0, vocabulary.text_size)]
    ends = [vocabulary.eos]
    if may_draw:
        parts.append(slice(vocabulary.bov, vocabulary.bov + 1))
        ends.append(vocabulary.bov)
    uniform_BN = uniforms(seeds, sampling.max_new_tokens)
    rows: list[list[int]] = [[] for _ in prompts]
    with _autocast(model):
        decoder = Decoder(model, prompts, vocabulary)
        for place in range(sampling.max_new_tokens):
            ids_B = draw(
                decoder.logits(*parts),
                uniform_BN[:, place],
                sampling.text_temperature,
                sampling.text_top_k,
                sampling.text_top_p,
            )
            ids_B = torch.where(ids_B == vocabulary.text_size, vocabulary.bov, ids_B)
            decoder.append(ids_B)
            for row, drawn in zip(rows, ids_B.tolist(), strict=True):
                if not row or row[-1] not in ends:
                    row.append(drawn)
            if all(row[-1] in ends for row in rows):
                break
    return rows
