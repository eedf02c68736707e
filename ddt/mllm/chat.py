"""A conversation with a model: turns of text and pictures in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ddt.clean import clean_text
from ddt.mllm import sequences as S
from ddt.mllm.conversations import IMAGE, conversation_prompt
from ddt.mllm.generate import OnToken
from ddt.mllm.interleaved import generate_interleaved
from ddt.mllm.model import DDTLlama
from ddt.mllm.pictures import to_images

MAX_IMAGES = 4  # in one reply


@dataclass(frozen=True)
class Reply:
    """What the model said; each `<image>` in `text` stands for the next of `images`."""

    text: str
    images: list[Image.Image]


class Chat:
    """Keeps what was said: each question is asked with all that came before."""

    def __init__(self, model: DDTLlama, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self.turns: list[dict[str, str]] = []
        self.codes_nT = np.zeros((0, model.builder.num_tokens), dtype=np.int64)

    def say(self, text: str, images: Sequence[Image.Image] = (), on_token: OnToken | None = None) -> Reply:
        """The reply to `text`, where each `<image>` stands for the next of `images`.

        Raises ValueError where marks and images differ in number, or where nothing more fits the model.
        """
        text = clean_text(text)
        if text.count(IMAGE) != len(images):
            raise ValueError(f"{text.count(IMAGE)} {IMAGE} marks for {len(images)} images")
        turns = [*self.turns, {"role": "user", "text": text}]
        codes_nT = np.concatenate([self.codes_nT, self.model.encode(images)])
        ids = self._reply(turns, codes_nT, on_token)
        reply_text, drawn_nT = self._read(ids)
        self.turns = [*turns, {"role": "assistant", "text": reply_text}]
        self.codes_nT = np.concatenate([codes_nT, drawn_nT])
        return Reply(reply_text, self._decode(drawn_nT))

    def _reply(
        self, turns: list[dict[str, str]], codes_nT: np.ndarray, on_token: OnToken | None
    ) -> list[int]:
        model = self.model
        builder, limit = model.builder, model.model.config.max_position_embeddings
        (prompt,) = builder.documents([conversation_prompt(turns, codes_nT)])
        if len(prompt) >= limit:
            raise ValueError(
                f"a conversation of {len(prompt)} tokens, more than the model's {limit} positions"
            )
        (nothing,) = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": ""})])
        seeds = [self.seed + len(turns)]
        (ids,) = generate_interleaved(
            model.model,
            model.vocabulary,
            [prompt.ids],
            nothing,
            builder.num_tokens,
            model.sampling,
            seeds,
            MAX_IMAGES,
            on_token,
        )
        return ids

    def _read(self, ids: list[int]) -> tuple[str, np.ndarray]:
        """The ids of a reply as text with marks, and the codes V_1..V_T of its pictures, [n, T]."""
        builder, vocabulary = self.model.builder, self.model.vocabulary
        parts: list[str] = []
        visual: list[int] = []
        text: list[int] = []
        for token in [*ids, vocabulary.bov]:
            if token == vocabulary.bov:
                parts.append(str(self.model.text_tokenizer.decode(text, skip_special_tokens=True)).strip())
                text = []
            elif vocabulary.text_size <= token < vocabulary.bov:
                visual.append(token)
            elif token != vocabulary.eov:
                text.append(token)
        ids_nT = np.array(visual, dtype=np.int64).reshape(-1, builder.num_tokens)
        return f" {IMAGE} ".join(parts).strip(), builder.codes(ids_nT)

    def _decode(self, codes_nT: np.ndarray) -> list[Image.Image]:
        if not len(codes_nT):
            return []
        noise = [torch.Generator().manual_seed(self.seed) for _ in codes_nT]
        return to_images(self.model.image_tokenizer.decode(torch.from_numpy(codes_nT), generator=noise))
