"""Replies of text and pictures in any order: the model itself decides when it draws.

B sequences, T image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ddt.mllm.config import SamplingConfig
from ddt.mllm.generate import OnToken, generate_codes, text_segments
from ddt.mllm.vocabulary import Vocabulary

SEED_STRIDE = 1 << 32  # every stretch of text and every picture draws from numbers of its own


def generate_interleaved(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[np.ndarray],
    unconditional: np.ndarray,
    num_tokens: int,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    max_images: int,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """The ids of a reply to each prompt, up to EOS (left out).

    Text goes on until the model writes [BOV]; exactly T visual ids and [EOV] follow, then text again. After
    `max_images` pictures, or once another would not fit the model's positions, only text is left. Each
    stretch of text has `max_new_tokens`. `unconditional` is a prompt that ends in [BOV] and asks for nothing:
    what guidance leads every picture away from. A batch gives what each prompt gives alone.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    room = model.config.max_position_embeddings - num_tokens - 2  # [BOV], [EOV]

    def contexts(rows: Sequence[int]) -> list[np.ndarray]:
        return [np.append(prompts[i], replies[i]).astype(np.int64) for i in rows]

    going = list(range(len(prompts)))
    for images in range(max_images + 1):
        numbers = [seed + images * SEED_STRIDE for seed in seeds]
        left = {i: room - len(prompts[i]) - len(replies[i]) for i in going}
        may_draw = [i for i in going if images < max_images and left[i] >= 0]
        drawing = []
        for rows in (may_draw, [i for i in going if i not in may_draw]):
            own, most = [numbers[i] for i in rows], [left[i] for i in rows] if rows is may_draw else None
            found = text_segments(model, vocabulary, contexts(rows), sampling.text, own, most)
            for i, segment in zip(rows, found, strict=True):
                replies[i] += segment
                if segment[-1] == vocabulary.bov:
                    drawing.append(i)
        if not drawing:
            break
        own, nothing = [numbers[i] for i in drawing], [unconditional] * len(drawing)
        drawn_BT = generate_codes(
            model, vocabulary, contexts(drawing), nothing, num_tokens, sampling.draw, own, on_token
        )
        for i, ids in zip(drawing, drawn_BT.tolist(), strict=True):
            replies[i] += [*ids, vocabulary.eov]
        going = drawing
    return [reply[:-1] if reply[-1] == vocabulary.eos else reply for reply in replies]
