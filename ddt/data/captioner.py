"""Detailed captions from a LLaVA-class model: ShareGPT-4V in the paper, a small one for the scenes world.

Two engines behind one call: vLLM where there is a CUDA device and vLLM is installed, Transformers elsewhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    LogitsProcessorList,
)

from ddt.data.caption_faults import Answer
from ddt.data.decode import to_rgb
from ddt.data.pretrained import ImageInput, load, load_model, pick_device
from ddt.data.refs import resolve
from ddt.train.precision import has_bf16
from ddt.weights import check_safetensors

Engine = Literal["auto", "transformers", "vllm"]
IMAGE = "<image>"
TEMPLATE = "USER: <image>\n{prompt} ASSISTANT:"  # LLaVA-1.5 and ShareGPT-4V


@dataclass(frozen=True)
class Decoding:
    """At temperature 0 the likeliest token always, above it sampled with each image's seed."""

    max_new_tokens: int
    temperature: float = 0.0


class CaptionEngine(Protocol):
    """Captions of one batch of images, as `image_input` reads them."""

    image_input: ImageInput

    def generate(
        self, images: Sequence[Image.Image], prompt: str, how: Decoding, seeds: Sequence[int]
    ) -> list[Answer]: ...


class Captioner:
    """One detailed caption for each image.

    Every batch is full, the last image being repeated: with Transformers a caption then depends on its image
    (and seed) alone, not on how many others there were to caption, and can be kept.
    """

    def __init__(
        self,
        path_or_ref: str,
        prompt: str = "Describe the image in detail.",
        max_new_tokens: int = 96,
        batch_size: int = 64,
        device: str | None = None,
        engine: Engine = "auto",
    ) -> None:
        """`path_or_ref`: `scenes:captioner`, a folder or a hub id of a LLaVA checkpoint.

        A prompt without `<image>` is put into LLaVA's template. ValueError where the model can't be loaded.
        """
        self.prompt = prompt if IMAGE in prompt else TEMPLATE.format(prompt=prompt)
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.engine = _open(engine, path_or_ref, pick_device(device))

    def read(self, data: bytes) -> Image.Image:
        """An encoded picture as small as the model takes it; ValueError as `decode_rgb`."""
        return self.engine.image_input.read(data)

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Captions in the order of the images, the likeliest tokens."""
        return [answer.text for answer in self.answer(images)]

    def answer(
        self, images: Sequence[Image.Image], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[Answer]:
        """Answers in the order of the images; `seeds`, one an image, are what sampling depends on."""
        how, answers = Decoding(self.max_new_tokens, temperature), list[Answer]()
        for start in range(0, len(images), self.batch_size):
            batch = [to_rgb(image) for image in images[start : start + self.batch_size]]
            of_batch = [0] * len(batch) if seeds is None else list(seeds[start : start + self.batch_size])
            missing = self.batch_size - len(batch)
            full, full_seeds = batch + batch[-1:] * missing, of_batch + of_batch[-1:] * missing
            answers += self.engine.generate(full, self.prompt, how, full_seeds)[: len(batch)]
        return [Answer(" ".join(answer.text.split()), answer.ended) for answer in answers]


class TransformersEngine:
    """`LlavaForConditionalGeneration.generate` on one device."""

    def __init__(self, path_or_ref: str, device: torch.device) -> None:
        """ValueError where the model can't be loaded, or names no token that ends a text."""
        self.device = device
        self.processor = load(AutoProcessor, path_or_ref)
        self.processor.tokenizer.padding_side = "left"
        self.image_input = ImageInput(self.processor.image_processor)
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32  # 99.7 % of the captions are the same
        self.model = load_model(LlavaForConditionalGeneration, path_or_ref, dtype=dtype).to(device).eval()
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            raise ValueError(f"model {path_or_ref!r}: its generation_config names no eos_token_id")
        self.ends = torch.tensor([ends] if isinstance(ends, int) else ends, device=device)

    @torch.inference_mode()
    def generate(
        self, images: Sequence[Image.Image], prompt: str, how: Decoding, seeds: Sequence[int]
    ) -> list[Answer]:
        """One prompt for the whole batch, so no row is padded and one prefix serves all."""
        pixels_BCHW = self.image_input(images)
        # With one size of image, every row has the same number of image tokens: expand them in one text.
        prefix = self.processor(images=images[:1], text=[prompt], return_tensors="pt")["input_ids"]
        prefix_BL = prefix.to(self.device).expand(len(images), -1)
        sampling = [Gumbel(how.temperature, seeds, self.device)] if how.temperature else []
        out_BL = self.model.generate(
            input_ids=prefix_BL,
            attention_mask=torch.ones_like(prefix_BL),
            pixel_values=pixels_BCHW.to(self.device, self.model.dtype),
            max_new_tokens=how.max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList(sampling),
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )[:, prefix_BL.shape[1] :]
        texts = self.processor.tokenizer.batch_decode(
            out_BL, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        ended = torch.isin(out_BL, self.ends).any(1).tolist()
        return [Answer(text, end) for text, end in zip(texts, ended, strict=True)]


class Gumbel(LogitsProcessor):
    """Makes the likeliest token a sample: softmax(logits / temperature) is drawn from by the largest of
    logits + temperature * Gumbel noise. Each row has a generator of its own, whoever else is in the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], device: torch.device) -> None:
        self.temperature = temperature
        self.rows = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """float[B, V] of logits, likewise."""
        drawn = [torch.rand(scores.shape[1], generator=row, device=scores.device) for row in self.rows]
        noise_BV = -torch.log(-torch.log(torch.stack(drawn).clamp(1e-20, 1 - 1e-7)))
        return scores + self.temperature * noise_BV


class VllmEngine:
    """The same through vLLM's offline engine, which batches and pages by itself."""

    def __init__(self, path_or_ref: str) -> None:
        from vllm import LLM

        model = resolve(path_or_ref)
        check_safetensors(f"model {path_or_ref!r}", model)
        self.image_input = ImageInput(load(AutoImageProcessor, path_or_ref))
        self.llm: Any = LLM(
            model=model, trust_remote_code=False, load_format="safetensors", limit_mm_per_prompt={"image": 1}
        )

    def generate(
        self, images: Sequence[Image.Image], prompt: str, how: Decoding, seeds: Sequence[int]
    ) -> list[Answer]:
        from vllm import SamplingParams

        requests = [{"prompt": prompt, "multi_modal_data": {"image": image}} for image in images]
        sampling = [
            SamplingParams(temperature=how.temperature, max_tokens=how.max_new_tokens, seed=seed)
            for seed in seeds
        ]
        outputs = [out.outputs[0] for out in self.llm.generate(requests, sampling, use_tqdm=False)]
        return [Answer(out.text, out.finish_reason == "stop") for out in outputs]


def _open(engine: Engine, path_or_ref: str, device: torch.device) -> CaptionEngine:
    if engine == "auto":
        engine = "vllm" if device.type == "cuda" and importlib.util.find_spec("vllm") else "transformers"
    if engine == "vllm":
        return VllmEngine(path_or_ref)
    return TransformersEngine(path_or_ref, device)
