"""The language model against Transformers: python bench/mllm.py [--threads 1] [--json FILE] [--only loss].

train     tokens a second, real ones only, against Transformers' Trainer on the same documents and model
loss      peak memory of loss and backward at a vocabulary of 193,794, against the plain head
generate  images with guidance (batch 8), against `generate` with equivalent logits processors
data      the share of a training step that loading its batch takes, at the default profile
All but the last print ours, theirs and the ratio. Sizes are options; the defaults take some minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import arguments, now, peak_bytes, report, seconds
from transformers import (
    LogitsProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ddt.data.refs import resolve
from ddt.data.tokens import TokenDataset, TokenMeta, write_shard
from ddt.mllm.batches import PretrainBatches, PretrainMix
from ddt.mllm.build import attention_kind, load_tokenizer, new_model
from ddt.mllm.config import LanguageModelConfig, VisualSampling
from ddt.mllm.cross_entropy import chunked_cross_entropy
from ddt.mllm.generate import generate_codes
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import PackedBatch, pack, slice_rows
from ddt.mllm.sequences import Document, SequenceBuilder
from ddt.mllm.vocabulary import Vocabulary, extend_tokenizer
from ddt.params import load_params
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import long_caption, short_caption
from ddt.train.fit import fit
from ddt.train.precision import has_bf16
from pipelines.pretrain import open_texts

VOCABULARY = Vocabulary(text_size=4096, codebook_size=1024, bos=0, eos=1, pad=2)
WARM_STEPS = 2
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Result = tuple[dict[str, float], str]  # numbers, and a line for people


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--documents", type=int, default=64, help="of a training step")
    parser.add_argument("--steps", type=int, default=6, help="measured, after two to warm up")
    parser.add_argument("--image-tokens", type=int, default=64)
    parser.add_argument("--loss-tokens", type=int, default=4096)
    parser.add_argument("--loss-width", type=int, default=1024)
    parser.add_argument("--data-steps", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, float]] = {}
    for name in options.only:
        results[name], line = BENCHMARKS[name](options)
        print(f"{name:9} {line}", flush=True)
    report(options, results)


def language_model(options: argparse.Namespace) -> PreTrainedModel:
    """The model of both sides, on the device."""
    shape = LanguageModelConfig(
        options.width,
        options.layers,
        options.width // 64,
        options.width // 64,
        options.width * 8 // 3,
        512,
        True,
        10_000.0,
    )
    model = new_model(shape, VOCABULARY, seed=0)
    model.set_attn_implementation(attention_kind(options.device, model.config))
    return model.to(options.device)


def documents(count: int, image_tokens: int) -> list[Document]:
    """Captions of 4 to 60 ids with an image each, and one in ten of text alone: pre-training's lengths."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        text = rng.integers(3, VOCABULARY.text_size, rng.integers(4, 61))
        image = rng.integers(VOCABULARY.text_size, VOCABULARY.bov, image_tokens)
        parts = (
            [[0], text, [1]]
            if number % 10 == 0
            else [[0], text, [VOCABULARY.bov], image, [VOCABULARY.eov, 1]]
        )
        ids = np.concatenate(parts).astype(np.int64)
        made.append(Document(ids, np.arange(len(ids)) > 0))
    return made


class Batches:
    """The same documents in every step, packed."""

    def __init__(self, made: list[Document], row_length: int) -> None:
        self.made, self.row_length = made, row_length

    def batch(self, step: int, rank: int = 0, world: int = 1) -> PackedBatch:
        return slice_rows(pack(self.made, self.row_length, VOCABULARY.pad, world), rank, world)


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(now())


def bench_train(options: argparse.Namespace) -> Result:
    made = documents(options.documents, options.image_tokens)
    steps, tokens = options.steps + WARM_STEPS, sum(map(len, made)) * options.steps
    settings = {
        "steps": steps, "warmup_steps": 1, "log_every": 1, "optimizer": "adamw", "global_batch": len(made),
        "checkpoint_every": 10**9,
    }  # fmt: skip
    overrides = [f"pretrain.fit.{key}={value}" for key, value in settings.items()]
    clock = Clock()
    fit(
        language_model(options), LanguageModelLoss(VOCABULARY), Batches(made, 4 * options.image_tokens),
        load_params(overrides=overrides).pretrain.fit, hooks=[lambda *_: clock.on_step_end()], progress=False,
    )  # fmt: skip
    ours = tokens / (clock.times[-1] - clock.times[WARM_STEPS - 1])
    return compared(ours, tokens / trainer_seconds(options, made, steps), "tokens/s")


def trainer_seconds(options: argparse.Namespace, made: list[Document], steps: int) -> float:
    """Seconds of Trainer's steps after the warm ones, each on all documents, padded to the longest."""
    longest = max(map(len, made))

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.full((len(rows), longest), VOCABULARY.pad)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for i, row in enumerate(rows):
            length = len(row["ids"])
            ids[i, :length] = labels[i, :length] = torch.from_numpy(row["ids"])
            mask[i, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=len(made), max_steps=steps, learning_rate=1e-3,
            logging_steps=1, bf16=has_bf16(torch.device(options.device)), use_cpu=options.device == "cpu",
            report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        rows: Any = [{"ids": document.ids} for document in made]
        model = language_model(options)
        Trainer(model, settings, collate, train_dataset=rows, callbacks=[clock]).train()
    return clock.times[-1] - clock.times[WARM_STEPS - 1]


def bench_loss(options: argparse.Namespace) -> Result:
    def peak_mb(loss: Loss) -> float:
        sizes = (options.loss_tokens, options.loss_width, options.device)
        return peak_bytes(loss_and_backward, loss, *sizes, device=options.device) / 1e6

    return compared(peak_mb(chunked_loss), peak_mb(plain_loss), "MB")


def chunked_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return chunked_cross_entropy(hidden, head, targets)[0]


def plain_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((hidden @ head.t()).float(), targets, reduction="sum")


def loss_and_backward(loss: Loss, tokens: int, width: int, device: str) -> Callable[[], None]:
    """What is measured, its inputs made already."""
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    head = torch.randn(193_794, width, device=device, requires_grad=True)
    targets = torch.randint(0, len(head), (tokens,), device=device)
    return lambda: loss(hidden, head, targets).backward()


class VisualOnly(LogitsProcessor):
    """Visual codes only, as ours does by computing no other logits."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        masked = torch.full_like(scores, -torch.inf)
        masked[:, VOCABULARY.visual] = scores[:, VOCABULARY.visual]
        return masked


def bench_generate(options: argparse.Namespace, batch: int = 8) -> Result:
    model = language_model(options).eval()
    rng = np.random.default_rng(0)
    bov = [VOCABULARY.bov]
    prompts = [np.concatenate([[0], rng.integers(3, 4096, 20), bov]).astype(np.int64)] * batch
    empty = [np.array([0, *bov])] * batch
    sampling = VisualSampling(cfg_scale=3.0, top_k=512, top_p=0.9)
    count = options.image_tokens

    def ours() -> None:
        generate_codes(model, VOCABULARY, prompts, empty, count, sampling, list(range(batch)))

    def theirs() -> None:
        ids, negative = (torch.from_numpy(np.stack(p)).to(options.device) for p in (prompts, empty))
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
            model.generate(
                ids, attention_mask=torch.ones_like(ids), negative_prompt_ids=negative, guidance_scale=3.0,
                negative_prompt_attention_mask=torch.ones_like(negative), logits_processor=[VisualOnly()],
                do_sample=True, top_k=512, top_p=0.9, min_new_tokens=count, max_new_tokens=count,
            )  # fmt: skip

    return compared(batch / seconds(ours), batch / seconds(theirs), "images/s")


def bench_data(options: argparse.Namespace) -> Result:
    """The default profile's own pre-training, but for the pictures, whose codes are drawn."""
    params = load_params(overrides=["pretrain.fit.log_every=20", "pretrain.fit.checkpoint_every=1000000"])
    section, images = params.pretrain, params.train_tokenizer.image_tokenizer
    assert section.model is not None
    text = load_tokenizer(resolve(section.text_tokenizer))
    vocabulary = extend_tokenizer(text, images.codebook_size)
    builder = SequenceBuilder(text, vocabulary, images.num_tokens, images.token_order)
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = TokenDataset.of_files([drawn_pairs(Path(folder) / "tokens.arrow", 4096, images)])
        mix = PretrainMix(
            section.long_caption_rate, section.caption_drop_rate, section.text_rate, section.image_first_rate
        )
        batches = PretrainBatches(
            pairs, open_texts(section, []), builder, mix, section.fit.global_batch, section.row_length, 0
        )
        config = dataclasses.replace(section.fit, steps=options.data_steps, warmup_steps=1)
        model = new_model(section.model, vocabulary, seed=0)
        model.set_attn_implementation(attention_kind(options.device, model.config))
        fit(
            model.to(options.device), LanguageModelLoss(vocabulary), batches, config,
            hooks=[lambda _, metrics: shares.append(metrics["train/data_share"])], progress=False,
        )  # fmt: skip
    percent = 100 * float(np.median(shares))
    return {"percent": percent}, f"{percent:.2f} % of a training step"


def drawn_pairs(path: Path, rows: int, images: Any) -> Path:
    """A token shard of scenes' captions with codes drawn at random."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(rows)]
    columns = {
        "sample_id": [str(row) for row in range(rows)],
        "short": [short_caption(scene, rng) for scene in scenes],
        "long": [long_caption(scene, rng) for scene in scenes],
        "codes": rng.integers(0, images.codebook_size, (rows, images.num_tokens)),
    }
    meta = TokenMeta("drawn", images.num_tokens, images.codebook_size, images.token_order)
    write_shard(path, columns, meta, "pairs")
    return path


def compared(ours: float, theirs: float, unit: str) -> Result:
    numbers = {"ours": ours, "transformers": theirs, "ratio": ours / theirs}
    return numbers, f"{ours:,.1f} {unit} against {theirs:,.1f}: ratio {ours / theirs:.2f}"


BENCHMARKS = {"train": bench_train, "loss": bench_loss, "generate": bench_generate, "data": bench_data}

if __name__ == "__main__":
    main()
