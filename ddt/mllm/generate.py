"""Batched generation of images and text with a key-value cache.

B sequences, T image tokens, N text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ddt.mllm.config import TextSampling, VisualSampling
from ddt.mllm.decoder import Decoder, FixedDecoder, has_fixed_steps
from ddt.mllm.replay import Replayed
from ddt.mllm.sampling import draw, guided, uniforms
from ddt.mllm.vocabulary import Vocabulary

OnToken = Callable[[Tensor], None]
OnText = Callable[[int], None]


def _autocast(model: PreTrainedModel) -> Any:
    # float32 weights were trained under bf16 autocast; on CPU float32 keeps batches of any size equal.
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def replays(model: PreTrainedModel, prompts: Sequence[np.ndarray], num_tokens: int) -> bool:
    """Whether drawing replays its steps: on CUDA, where the model and the prompts allow it."""
    return next(model.parameters()).device.type == "cuda" and has_fixed_steps(model, prompts, num_tokens)


@torch.inference_mode()
def generate_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray],
    num_tokens: int,
    sampling: VisualSampling,
    seeds: Sequence[int],
    on_token: OnToken | None = None,
) -> Tensor:
    """Exactly T visual ids, int64 [B, T] on the CPU, after prompts that end in [BOV].

    `unconditional` are the same prompts with the caption dropped; they are not computed where guidance is 1.
    `on_token` sees the ids so far, [B, t], after each token. Same seed, same ids, whatever the batch.
    """
    is_guided = sampling.cfg_scale != 1
    fed = [*prompts, *unconditional] if is_guided else prompts
    device = next(model.parameters()).device
    with _autocast(model):
        is_fixed = replays(model, fed, num_tokens)
        decoder = (
            FixedDecoder(model, fed, vocabulary, [vocabulary.visual], num_tokens)
            if is_fixed
            else Decoder(model, fed, vocabulary, [vocabulary.visual])
        )
        drawing = _Drawing(decoder, sampling, uniforms(seeds, num_tokens).to(device), vocabulary.visual.start)
        step = Replayed(drawing.step, device) if is_fixed else drawing.step
        for drawn in range(1, num_tokens + 1):
            step()
            if on_token is not None:
                on_token(drawing.ids_BT[:, :drawn].to("cpu", copy=True))
    return drawing.ids_BT.cpu()


class _Drawing:
    """The visual ids of a batch, one more with each step.

    A step takes its random numbers and leaves its ids on the device: it never waits for it, and works as well
    when it is replayed, with no arguments.
    """

    def __init__(self, decoder: Decoder, sampling: VisualSampling, uniform_BT: Tensor, first_id: int) -> None:
        self._decoder, self._sampling, self._uniform_BT = decoder, sampling, uniform_BT
        self._first_id = first_id
        self.ids_BT = torch.zeros_like(uniform_BT, dtype=torch.int64)
        self._place_1 = torch.zeros(1, dtype=torch.int64, device=uniform_BT.device)

    def step(self) -> None:
        sampling, logits = self._sampling, self._decoder.logits()
        is_guided = sampling.cfg_scale != 1
        if is_guided:
            cond, uncond = logits.chunk(2)
            logits = guided(cond, uncond, sampling.cfg_scale)
        codes_B = draw(
            logits,
            self._uniform_BT.index_select(1, self._place_1)[:, 0],
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
        )
        ids_B = codes_B + self._first_id
        self.ids_BT.index_copy_(1, self._place_1, ids_B[:, None])
        self._place_1.add_(1)
        self._decoder.append(torch.cat([ids_B, ids_B]) if is_guided else ids_B)


def generate_text(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    sampling: TextSampling,
    seeds: Sequence[int],
    on_text: OnText | None = None,
) -> list[list[int]]:
    """Text ids after each prompt, up to EOS (left out) or `max_new_tokens`; visual ids are masked.

    `on_text` is told after each token how many there are of the longest text.
    """
    rows = text_segments(model, vocabulary, prompts, sampling, seeds, on_text=on_text)
    return [row[:-1] if row[-1] == vocabulary.eos else row for row in rows]


@torch.inference_mode()
def text_segments(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    sampling: TextSampling,
    seeds: Sequence[int],
    room: Sequence[int] | None = None,
    on_text: OnText | None = None,
) -> list[list[int]]:
    """Text ids after each prompt up to EOS, or up to [BOV] where the model may draw; both are kept.

    `room` says for each prompt how many tokens of text may come before [BOV]; None: there is none at all.
    """
    if not prompts:
        return []
    parts = [slice(0, vocabulary.text_size)]
    ends = [vocabulary.eos]
    if room is not None:
        parts.append(slice(vocabulary.bov, vocabulary.bov + 1))
        ends.append(vocabulary.bov)
    uniform_BN = uniforms(seeds, sampling.max_new_tokens)
    rows: list[list[int]] = [[] for _ in prompts]
    with _autocast(model):
        decoder = Decoder(model, prompts, vocabulary, parts)
        for place in range(sampling.max_new_tokens):
            logits = decoder.logits()
            if room is not None:
                logits[[place > most for most in room], -1] = -torch.inf
            ids_B = draw(
                logits,
                uniform_BN[:, place],
                sampling.temperature,
                sampling.top_k,
                sampling.top_p,
            )
            ids_B = torch.where(ids_B == vocabulary.text_size, vocabulary.bov, ids_B)
            decoder.append(ids_B)
            for row, drawn in zip(rows, ids_B.tolist(), strict=True):
                if not row or row[-1] not in ends:
                    row.append(drawn)
            if on_text is not None:
                on_text(place + 1)
            if all(row[-1] in ends for row in rows):
                break
    return rows
