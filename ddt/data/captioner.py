"""Detailed captions from a LLaVA-class model: ShareGPT-4V in the paper, a small one for the scenes world.

Two engines behind one call: vLLM where there is a CUDA device and vLLM is installed, Transformers elsewhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, LlavaForConditionalGeneration

from ddt.data.decode import to_rgb
from ddt.data.pretrained import ImageInput, load, load_model, pick_device
from ddt.data.refs import resolve
from ddt.train.precision import has_bf16
from ddt.weights import check_safetensors

Engine = Literal["auto", "transformers", "vllm"]
IMAGE = "<image>"
TEMPLATE = "USER: <image>\n{prompt} ASSISTANT:"  # LLaVA-1.5 and ShareGPT-4V


class CaptionEngine(Protocol):
    """Greedy captions of one batch of images, as `image_input` reads them."""

    image_input: ImageInput

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> list[str]: ...


class Captioner:
    """One detailed caption for each image, decoded greedily."""

    def __init__(
        self,
        path_or_ref: str,
        prompt: str = "Describe the image in detail.",
        max_new_tokens: int = 96,
        batch_size: int = 128,
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
        """Captions in the order of the images, stripped, on one line each."""
        captions: list[str] = []
        for start in range(0, len(images), self.batch_size):
            batch = [to_rgb(image) for image in images[start : start + self.batch_size]]
            captions += self.engine.generate(batch, self.prompt, self.max_new_tokens)
        return [" ".join(caption.split()) for caption in captions]


class TransformersEngine:
    """`LlavaForConditionalGeneration.generate` on one device."""

    def __init__(self, path_or_ref: str, device: torch.device) -> None:
        self.device = device
        self.processor = load(AutoProcessor, path_or_ref)
        self.processor.tokenizer.padding_side = "left"
        self.image_input = ImageInput(self.processor.image_processor)
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32  # 99.7 % of the captions are the same
        self.model = load_model(LlavaForConditionalGeneration, path_or_ref, dtype=dtype).to(device).eval()

    @torch.inference_mode()
    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> list[str]:
        """One prompt for the whole batch, so no row is padded and one prefix serves all."""
        pixels_BCHW = self.image_input(images)
        # With one size of image, every row has the same number of image tokens: expand them in one text.
        prefix = self.processor(images=images[:1], text=[prompt], return_tensors="pt")["input_ids"]
        prefix_BL = prefix.to(self.device).expand(len(images), -1)
        out_BL = self.model.generate(
            input_ids=prefix_BL,
            attention_mask=torch.ones_like(prefix_BL),
            pixel_values=pixels_BCHW.to(self.device, self.model.dtype),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return self.processor.tokenizer.batch_decode(
            out_BL[:, prefix_BL.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


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

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> list[str]:
        from vllm import SamplingParams

        requests = [{"prompt": prompt, "multi_modal_data": {"image": image}} for image in images]
        greedy = SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
        return [out.outputs[0].text for out in self.llm.generate(requests, greedy, use_tqdm=False)]


def _open(engine: Engine, path_or_ref: str, device: torch.device) -> CaptionEngine:
    if engine == "auto":
        engine = "vllm" if device.type == "cuda" and importlib.util.find_spec("vllm") else "transformers"
    if engine == "vllm":
        return VllmEngine(path_or_ref)
    return TransformersEngine(path_or_ref, device)
