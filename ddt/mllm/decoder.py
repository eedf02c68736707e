"""Sequences under way: what the model is fed token by token, with its key-value cache.

B sequences, P longest prompt, L slots of a cache, D width. Prompts of different lengths are padded on the
left and keep their own positions, so a batch gives what each prompt gives alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from ddt.mllm.vocabulary import Vocabulary

SLOTS_MULTIPLE = 8  # CUDA's fused attention copies a mask whose rows are not a multiple of 8, in every layer


class Decoder:
    """Left-padded prompts under way: feeds tokens to the model and keeps cache, mask and positions.

    The logits it returns are those of some slices of the vocabulary only: a modality mask that costs less
    than no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[np.ndarray],
        vocabulary: Vocabulary,
        parts: Sequence[slice],
    ) -> None:
        self.model, self.device = model, next(model.parameters()).device
        longest = max(map(len, prompts))
        padded = [np.concatenate([np.full(longest - len(p), vocabulary.pad), p]) for p in prompts]
        real = [np.arange(longest) >= longest - len(p) for p in prompts]
        self._next_BP = torch.from_numpy(np.stack(padded).astype(np.int64)).to(self.device)
        self._mask = torch.from_numpy(np.stack(real)).long().to(self.device)
        self._position_BP = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        self._cache: Cache = DynamicCache(config=model.config)
        head_VD = model.get_output_embeddings().weight
        # autocast would cast a slice again in every step: it remembers whole parameters only
        self._heads = [head_VD[rows].to(working_dtype(head_VD)) for rows in parts]

    def logits(self) -> Tensor:
        """float32 [B, rows]: scores of the vocabulary's `parts`, in their order, for each next token."""
        hidden_BPD = self.model.model(
            input_ids=self._next_BP,
            attention_mask=self._mask,
            position_ids=self._position_BP,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        logits_BV = torch.cat([F.linear(hidden_BPD[:, -1], rows) for rows in self._heads], dim=1).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits_BV if cap is None else torch.tanh(logits_BV / cap) * cap

    def append(self, ids_B: Tensor) -> None:
        """The next token of each sequence."""
        self._next_BP = ids_B[:, None]
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._position_BP = self._position_BP[:, -1:] + 1


class FixedDecoder(Decoder):
    """A decoder for `num_tokens` tokens whose steps after the first do the same work in the same tensors.

    So a step can be recorded once and replayed (`ddt.mllm.replay`). Its cache has as many slots as there will
    be tokens; those not yet written are masked. For models and prompts that `has_fixed_steps` allows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[np.ndarray],
        vocabulary: Vocabulary,
        parts: Sequence[slice],
        num_tokens: int,
    ) -> None:
        super().__init__(model, prompts, vocabulary, parts)
        longest = self._next_BP.shape[1]
        slots = -(-(longest + num_tokens) // SLOTS_MULTIPLE) * SLOTS_MULTIPLE
        dtype = self._heads[0].dtype
        self._fixed = FixedCache(slots, torch.arange(longest, device=self.device), dtype)
        self._cache, self._mask = self._fixed, prompt_mask(self._mask.bool(), slots, dtype)

    def append(self, ids_B: Tensor) -> None:
        """The next token of each sequence: after the prompts, everything changes in place."""
        if self._next_BP.shape[1] > 1:
            self._next_BP = torch.empty_like(self._next_BP[:, -1:])
            self._position_BP = self._position_BP[:, -1:].clone()
            self._mask = self._mask[:, :, -1:].clone()
            self._fixed.slots_P = self._fixed.slots_P[-1:].clone()
        self._next_BP.copy_(ids_B[:, None])
        self._position_BP.add_(1)
        self._fixed.slots_P.add_(1)
        self._mask.index_fill_(3, self._fixed.slots_P, 0.0)


class FixedCache(Cache):
    """Keys and values of all layers in tensors of L slots, which stay where they are.

    `slots_P` are those that the next tokens are written to. In the type that attention works in: autocast
    would cast a cache in float32 again in every layer and step.
    """

    def __init__(self, slots: int, slots_P: Tensor, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.slots_P = slots_P
        self._slots, self._dtype = slots, dtype
        self._stored: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the states of the next tokens; the layer's keys and values, [B, heads, L, width] each."""
        if layer_idx == len(self._stored):
            self._stored.append((self._room_for(key_states), self._room_for(value_states)))
        stored = self._stored[layer_idx]
        for room, states in zip(stored, (key_states, value_states), strict=True):
            room.index_copy_(2, self.slots_P, states.to(self._dtype))
        return stored

    def _room_for(self, states: Tensor) -> Tensor:
        batch, heads, _, width = states.shape
        # zeros: what is masked is multiplied by 0, which makes no number of what is none
        return torch.zeros(batch, heads, self._slots, width, dtype=self._dtype, device=states.device)


def has_fixed_steps(model: PreTrainedModel, prompts: Sequence[np.ndarray], num_tokens: int) -> bool:
    """Whether a `FixedDecoder` gives what a `Decoder` gives.

    Not where the frequencies of positions are decided on the host as the sequence grows, nor where it
    outgrows the window of some layers: rows of training don't, a long chat may.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    fits = window is None or max(map(len, prompts)) + num_tokens <= window
    return fits and config.rope_parameters["rope_type"] not in ("dynamic", "longrope")


def prompt_mask(real_BP: Tensor, slots: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, P, L] to add to scores: 0 where a token of the prompts sees a slot, -inf elsewhere.

    Padding sees itself: a softmax over nothing is no number.
    """
    count, longest = real_BP.shape
    ones_PP = torch.ones(longest, longest, dtype=torch.bool, device=real_BP.device)
    seen_BPP = (real_BP[:, None, :] & ones_PP.tril()) | torch.eye(longest, device=real_BP.device).bool()
    mask_B1PL = torch.full((count, 1, longest, slots), -torch.inf, dtype=dtype, device=real_BP.device)
    mask_B1PL[:, 0, :, :longest].masked_fill_(seen_BPP, 0.0)
    return mask_B1PL


def working_dtype(weight: Tensor) -> torch.dtype:
    """What products with `weight` are computed in here: autocast's type, or its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
