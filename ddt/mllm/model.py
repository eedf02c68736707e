"""DDTLlama: a language model, its text tokenizer and the image tokenizer whose codes it reads and writes.

Its folder is a Hugging Face folder (AutoModelForCausalLM and AutoTokenizer load it untouched) with ddt.json
and image_tokenizer/ inside, and `_COMPLETE` written last. B batch, T image tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ddt.baselines.kinds import ImageTokenizer, load_image_tokenizer
from ddt.clean import clean_text
from ddt.config import build as build_config
from ddt.config import to_dict
from ddt.hub import local_folder
from ddt.mllm import sequences as S
from ddt.mllm.build import load_config, load_model, load_tokenizer
from ddt.mllm.config import SamplingConfig, VisualSampling
from ddt.mllm.export import save_model
from ddt.mllm.folder import IMAGE_TOKENIZER, MARKER, SETTINGS, read_settings, write_settings
from ddt.mllm.generate import OnText, OnToken, generate_codes, generate_text
from ddt.mllm.instructions import LONG_CAPTION, QUESTION, SHORT_CAPTION
from ddt.mllm.pictures import to_images, to_pixels
from ddt.mllm.sequences import SequenceBuilder
from ddt.mllm.vocabulary import check_size, embedding_rows, extend_tokenizer

Seeds = int | Sequence[int]
T = TypeVar("T")


class DDTLlama:
    """Draws, edits, captions and answers.

    `sampling` holds what the methods' arguments left at None take. A `seed` is used for every prompt as it
    is, so a prompt gives the same picture alone and in any batch; a sequence holds one seed for each prompt.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        text_tokenizer: PreTrainedTokenizerBase,
        image_tokenizer: ImageTokenizer,
        sampling: SamplingConfig | None = None,
        made_from: dict[str, str] | None = None,
        batch_size: int = 64,
        classes: Sequence[str] = (),
    ) -> None:
        self.model, self.text_tokenizer, self.image_tokenizer = model, text_tokenizer, image_tokenizer
        self.sampling, self.made_from = sampling or SamplingConfig(), dict(made_from or {})
        self.batch_size, self.classes = batch_size, tuple(classes)
        config = image_tokenizer.config
        self.vocabulary = extend_tokenizer(text_tokenizer, config.codebook_size, len(classes))
        check_size(embedding_rows(model), self.vocabulary)
        self.builder = SequenceBuilder(
            text_tokenizer, self.vocabulary, config.num_tokens, config.token_order, self.classes
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        model: PreTrainedModel | None = None,
    ) -> DDTLlama:
        """The model of a folder or hub id, in eval mode; around `model` where the folder's is already loaded.

        Raises ValueError for a folder that is missing, incomplete, or whose parts do not belong together.
        """
        folder = local_folder(path)
        settings = read_settings(folder)
        image_tokenizer = load_image_tokenizer(folder / IMAGE_TOKENIZER).to(device)
        if image_tokenizer.digest != settings["tokenizer_digest"]:
            raise ValueError(
                f"{folder}: was trained on codes of tokenizer {settings['tokenizer_digest'][:16]}, "
                f"but holds {image_tokenizer.digest[:16]}"
            )
        sampling = build_config(SamplingConfig, settings["sampling"], f"{folder / SETTINGS}: sampling")
        text_tokenizer, classes = load_tokenizer(folder), settings.get("classes", ())
        if model is None:
            codebook_size = image_tokenizer.config.codebook_size
            vocabulary = extend_tokenizer(text_tokenizer, codebook_size, len(classes))
            check_size(load_config(folder).vocab_size, vocabulary)  # before weights are read
            model = load_model(folder, device).eval()
        return cls(model, text_tokenizer, image_tokenizer, sampling, settings["made_from"], classes=classes)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the folder; until it is whole it has no marker, and no reader takes it.

        Where the weights are spread over processes all must call it, and rank 0's folder is whole.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).unlink(missing_ok=True)
        save_model(self.model, folder)
        self.text_tokenizer.save_pretrained(folder)
        self.image_tokenizer.save_pretrained(folder / IMAGE_TOKENIZER)
        config = self.image_tokenizer.config
        settings: dict[str, Any] = {
            "text_size": self.vocabulary.text_size,
            "codebook_size": config.codebook_size,
            "num_tokens": config.num_tokens,
            "token_order": config.token_order,
            "tokenizer_digest": self.image_tokenizer.digest,
            "sampling": to_dict(self.sampling),
            "made_from": self.made_from,
        }
        if self.classes:
            settings["classes"] = list(self.classes)
        write_settings(folder, settings)
        (folder / MARKER).touch()

    def generate_image(
        self,
        prompts: Sequence[str],
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: Seeds = 0,
        *,
        num_steps: int | None = None,
        on_token: OnToken | None = None,
    ) -> list[Image.Image]:
        """One picture for each prompt. `num_steps` are the decoder's; `on_token` sees ids so far, [B, t]."""
        examples = [(S.TEXT_TO_IMAGE, {"caption": clean_text(prompt)}) for prompt in prompts]
        sampling = _changed(self.sampling.draw, cfg_scale, top_k, top_p)
        return self._draw(examples, sampling, seed, num_steps, on_token)

    def generate_class(
        self,
        classes: Sequence[str],
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: Seeds = 0,
        *,
        num_steps: int | None = None,
        on_token: OnToken | None = None,
    ) -> list[Image.Image]:
        """One picture of each class (Table 4); ValueError for a name that the model has no token for."""
        examples = [(S.CLASS_TO_IMAGE, {"class": name}) for name in classes]
        sampling = _changed(self.sampling.draw, cfg_scale, top_k, top_p)
        return self._draw(examples, sampling, seed, num_steps, on_token)

    def edit_image(
        self,
        images: Sequence[Image.Image],
        instructions: Sequence[str],
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: Seeds = 0,
        *,
        num_steps: int | None = None,
        on_token: OnToken | None = None,
    ) -> list[Image.Image]:
        """Each image changed as its instruction says; guidance is towards the instruction."""
        _same_length("instructions", instructions, images)
        examples = [
            (S.EDIT, {"source": codes, "instruction": clean_text(instruction)})
            for codes, instruction in zip(self.encode(images), instructions, strict=True)
        ]
        sampling = _changed(self.sampling.edit, cfg_scale, top_k, top_p)
        return self._draw(examples, sampling, seed, num_steps, on_token)

    def caption(
        self,
        images: Sequence[Image.Image],
        detailed: bool = False,
        seed: Seeds = 0,
        *,
        on_text: OnText | None = None,
    ) -> list[str]:
        """A short caption of each image, or a detailed one. `on_text` is told the number of tokens so far."""
        instruction = (LONG_CAPTION if detailed else SHORT_CAPTION)[0]
        return self._answer(self.encode(images), [instruction] * len(images), seed, on_text)

    def answer(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        seed: Seeds = 0,
        *,
        on_text: OnText | None = None,
    ) -> list[str]:
        """The answer to each question about its image. `on_text` is as in `caption`."""
        _same_length("questions", questions, images)
        asked = [QUESTION[0].replace("{question}", clean_text(question)) for question in questions]
        return self._answer(self.encode(images), asked, seed, on_text)

    def encode(self, images: Sequence[Image.Image]) -> np.ndarray:
        """int64 codes V_1..V_T, [n, T]: what the model sees of the images."""
        side = self.image_tokenizer.config.image_size
        parts = [
            self.image_tokenizer.encode(to_pixels(part, side)).cpu()
            for part, _ in self._batches(images, seed=0)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.builder.num_tokens), dtype=np.int64)

    def preview(self, ids_Bt: Tensor) -> list[Image.Image]:
        """Pictures of the ids drawn so far, as `on_token` gets them.

        In the order V_1..V_T they are a prefix, which the tokenizer decodes as it is (Fig. 8). From the other
        end the tokens still to come are those of a grey picture: it was trained on no other gaps.
        """
        config, drawn = self.image_tokenizer.config, ids_Bt.shape[1]
        blank = torch.zeros(1, 3, config.image_size, config.image_size)
        codes_BT = self.image_tokenizer.encode(blank).cpu().expand(len(ids_Bt), -1).clone()
        ids_BT = torch.from_numpy(self.builder.codes(F.pad(ids_Bt, (0, config.num_tokens - drawn)).numpy()))
        if config.token_order == "V_1..V_T":
            codes_BT[:, :drawn] = ids_BT[:, :drawn]
            return to_images(self.image_tokenizer.decode(codes_BT, 1, num_tokens=drawn))
        codes_BT[:, -drawn:] = ids_BT[:, -drawn:]
        return to_images(self.image_tokenizer.decode(codes_BT, 1))

    def draw_codes(
        self,
        examples: Sequence[S.Example],
        sampling: VisualSampling,
        seeds: Sequence[int],
        on_token: OnToken | None = None,
    ) -> Tensor:
        """int64 codes V_1..V_T [B, T] that follow each (template, values); guidance drops the condition."""
        prompts = self._prompts(examples, self.builder.num_tokens)
        unconditional = self.builder.prompts([(t, {**v, S.CONDITION[t]: ""}) for t, v in examples])
        ids_BT = generate_codes(
            self.model,
            self.vocabulary,
            prompts,
            unconditional,
            self.builder.num_tokens,
            sampling,
            seeds,
            on_token,
        )
        return torch.from_numpy(self.builder.codes(ids_BT.numpy()))

    def _draw(
        self,
        examples: Sequence[S.Example],
        sampling: VisualSampling,
        seed: Seeds,
        num_steps: int | None,
        on_token: OnToken | None,
    ) -> list[Image.Image]:
        images: list[Image.Image] = []
        for part, seeds in self._batches(examples, seed):
            codes_BT = self.draw_codes(part, sampling, seeds, on_token)
            noise = [torch.Generator().manual_seed(each) for each in seeds]
            images += to_images(self.image_tokenizer.decode(codes_BT, num_steps, generator=noise))
        return images

    def _answer(
        self, codes_BT: np.ndarray, instructions: Sequence[str], seed: Seeds, on_text: OnText | None
    ) -> list[str]:
        examples: list[S.Example] = [
            (S.ANSWER, {"image": codes, "instruction": instruction})
            for codes, instruction in zip(codes_BT, instructions, strict=True)
        ]
        texts: list[str] = []
        for part, seeds in self._batches(examples, seed):
            prompts = self._prompts(part, 1)
            ids = generate_text(self.model, self.vocabulary, prompts, self.sampling.text, seeds, on_text)
            texts += [str(self.text_tokenizer.decode(each, skip_special_tokens=True)).strip() for each in ids]
        return texts

    def _prompts(self, examples: Sequence[S.Example], more: int) -> list[np.ndarray]:
        """Ids of the prompts; ValueError where one has no room for `more` tokens after it."""
        prompts, limit = self.builder.prompts(examples), self.model.config.max_position_embeddings
        longest = max(map(len, prompts), default=0)
        if longest + more > limit:
            raise ValueError(
                f"a prompt of {longest} tokens: expected at most {limit - more}, as the model takes"
            )
        return prompts

    def _batches(self, items: Sequence[T], seed: Seeds) -> Iterator[tuple[Sequence[T], list[int]]]:
        """`batch_size` items at a time, each with its seed."""
        seeds = _seeds(seed, len(items))
        for start in range(0, len(items), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield items[part], seeds[part]


def _changed(
    sampling: VisualSampling, cfg_scale: float | None, top_k: int | None, top_p: float | None
) -> VisualSampling:
    """`sampling` with what is given in its place."""
    asked = {"cfg_scale": cfg_scale, "top_k": top_k, "top_p": top_p}
    given = {name: value for name, value in asked.items() if value is not None}
    return build_config(VisualSampling, {**to_dict(sampling), **given}, "sampling")


def _seeds(seed: Seeds, count: int) -> list[int]:
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise ValueError(f"seed: expected a whole number or {count} of them, got {len(seed)}")
    return list(seed)


def _same_length(name: str, values: Sequence[str], images: Sequence[Image.Image]) -> None:
    if len(values) != len(images):
        raise ValueError(f"{name}: expected one for each of the {len(images)} images, got {len(values)}")
