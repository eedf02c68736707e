"""BLIP-VQA: how sure the model is that the answer to a question about a picture is yes (T2I-CompBench)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForQuestionAnswering
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from ddt.data.pretrained import load, load_model, pick_device, pick_dtype

SIDE_PX = 480  # the official checkpoint's; another side's position embeddings are interpolated
YES, NO = "yes", "no"
MAX_QUESTION_TOKENS = 35
_REMOVED = re.compile(r"[.!\"()*#:;~]")


def question_of(chunk: str) -> str:
    """The question about a noun chunk, cleaned as BLIP's data set does."""
    return _REMOVED.sub("", f"{chunk}?".lower()).strip()


class BlipVQA:
    """P(yes) / (P(yes) + P(no)) of the first token of the answer."""

    def __init__(self, path_or_ref: str, device: str | None = None, batch_size: int = 16) -> None:
        """`path_or_ref`: a folder or hub id. ValueError where it can't be loaded."""
        self.device, self.batch_size = pick_device(device), batch_size
        self.model = load_model(BlipForQuestionAnswering, path_or_ref, dtype=pick_dtype(self.device))
        self.model = self.model.to(self.device).eval()
        self.tokenizer = load(AutoTokenizer, path_or_ref)
        square = {"height": SIDE_PX, "width": SIDE_PX}
        self.processor = load(BlipImageProcessorPil, path_or_ref, size=square)
        text = self.model.config.text_config
        self.start_id = text.bos_token_id
        # BLIP's question encoder starts with its own token, the last of its vocabulary, in place of [CLS].
        self.encode_id = text.vocab_size - 1
        self.yes_id, self.no_id = (self.tokenizer.convert_tokens_to_ids(word) for word in (YES, NO))
        if self.tokenizer.unk_token_id in (self.yes_id, self.no_id):
            raise ValueError(f"model {path_or_ref!r}: its tokenizer has no words yes and no")

    def p_yes(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """One number for each picture and its question.

        A batch holds questions of one length: Transformers 5.23 ignores the mask of a padded question in the
        answer's cross-attention.
        """
        ids = self.tokenizer(list(questions), truncation=True, max_length=MAX_QUESTION_TOKENS)["input_ids"]
        by_length: dict[int, list[int]] = {}
        for index, each in enumerate(ids):
            by_length.setdefault(len(each), []).append(index)
        answers = [0.0] * len(ids)
        for members in by_length.values():
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                found = self._batch([images[i] for i in part], torch.tensor([ids[i] for i in part]))
                for index, answer in zip(part, found, strict=True):
                    answers[index] = answer
        return answers

    @torch.inference_mode()
    def _batch(self, images: Sequence[Image.Image], ids_BL: torch.Tensor) -> list[float]:
        pixels_BCHW = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        pixels_BCHW = pixels_BCHW.to(self.device, self.model.dtype)
        ids_BL = ids_BL.to(self.device)
        ids_BL[:, 0] = self.encode_id
        seen = self.model.vision_model(pixel_values=pixels_BCHW, interpolate_pos_encoding=True)
        asked = self.model.text_encoder(input_ids=ids_BL, encoder_hidden_states=seen.last_hidden_state)
        logits_BV = self.model.text_decoder(
            input_ids=torch.full((len(images), 1), self.start_id, device=self.device),
            encoder_hidden_states=asked.last_hidden_state,
        ).logits[:, 0]
        return logits_BV[:, [self.yes_id, self.no_id]].float().softmax(-1)[:, 0].tolist()
