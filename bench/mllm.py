"""The language model against Transformers: python bench/mllm.py [--device cpu] [--json FILE] [--only loss].

train     tokens a second, real ones only, against Transformers' Trainer on the same documents and model
loss      peak memory of loss and backward at a vocabulary of 193,794, against the plain head
generate  images with guidance (batch 8), against `generate` with equivalent logits processors
Each prints ours, theirs and the ratio. Sizes are options; the defaults take minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    LogitsProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ddt.mllm.build import attention_kind, new_model
from ddt.mllm.config import LanguageModelConfig, SamplingConfig
from ddt.mllm.cross_entropy import chunked_cross_entropy
from ddt.mllm.generate import generate_codes
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import PackedBatch, pack, slice_rows
from ddt.mllm.sequences import Document
from ddt.mllm.vocabulary import Vocabulary
from ddt.params import load_params
from ddt.train.fit import fit
from ddt.train.precision import has_bf16

VOCABULARY = Vocabulary(text_size=4096, codebook_size=1024, bos=0, eos=1, pad=2)
WARM_STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--documents", type=int, default=64, help="of a training step")
    parser.add_argument("--steps", type=int, default=6, help="measured, after two to warm up")
    parser.add_argument("--image-tokens", type=int, default=64)
    parser.add_argument("--loss-tokens", type=int, default=4096)
    parser.add_argument("--loss-width", type=int, default=1024)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name in options.only:
        ours, theirs, unit = BENCHMARKS[name](options)
        results[name] = {"ours": ours, "transformers": theirs, "ratio": ours / theirs}
        print(f"{name:9} {ours:,.1f} {unit} against {theirs:,.1f}: ratio {ours / theirs:.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": options.device, **results}, indent=2) + "\n")


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
    model.set_attn_implementation(attention_kind(options.device))
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
        self.times.append(time.perf_counter())


def bench_train(options: argparse.Namespace) -> tuple[float, float, str]:
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
    return ours, tokens / trainer_seconds(options, made, steps), "tokens/s"


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
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=len(made), max_steps=steps, learning_rate=1e-3,
            logging_steps=1, bf16=has_bf16(torch.device(options.device)), use_cpu=options.device == "cpu",
            report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        rows: Any = [{"ids": document.ids} for document in made]
        model = language_model(options)
        Trainer(model, arguments, collate, train_dataset=rows, callbacks=[clock]).train()
    return clock.times[-1] - clock.times[WARM_STEPS - 1]


def bench_loss(options: argparse.Namespace) -> tuple[float, float, str]:
    sizes = (options.loss_tokens, options.loss_width, options.device)
    return peak_mb(chunked_loss, *sizes), peak_mb(plain_loss, *sizes), "MB"


def chunked_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return chunked_cross_entropy(hidden, head, targets)[0]


def plain_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((hidden @ head.t()).float(), targets, reduction="sum")


def peak_mb(loss: Callable[..., torch.Tensor], tokens: int, width: int, device: str) -> float:
    """Peak memory of loss and backward beyond its inputs, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=measure_peak, args=(loss, tokens, width, device, queue))
    worker.start()
    found = queue.get()
    worker.join()
    return found / 1e6


def measure_peak(loss: Callable[..., torch.Tensor], tokens: int, width: int, device: str, queue: Any) -> None:
    """Puts the bytes of the peak: of the allocator on CUDA, of the process elsewhere."""
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    head = torch.randn(193_794, width, device=device, requires_grad=True)
    targets = torch.randint(0, len(head), (tokens,), device=device)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = memory("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
    loss(hidden, head, targets).backward()
    queue.put((memory("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()) - before)


def memory(name: str) -> int:
    """Bytes of this process by a name of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) * 1024


class VisualOnly(LogitsProcessor):
    """Visual codes only, as ours does by computing no other logits."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        masked = torch.full_like(scores, -torch.inf)
        masked[:, VOCABULARY.visual] = scores[:, VOCABULARY.visual]
        return masked


def bench_generate(options: argparse.Namespace, batch: int = 8) -> tuple[float, float, str]:
    model = language_model(options).eval()
    rng = np.random.default_rng(0)
    bov = [VOCABULARY.bov]
    prompts = [np.concatenate([[0], rng.integers(3, 4096, 20), bov]).astype(np.int64)] * batch
    empty = [np.array([0, *bov])] * batch
    sampling = SamplingConfig(cfg_scale=3.0, visual_top_k=512, visual_top_p=0.9)
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

    return batch / seconds(ours), batch / seconds(theirs), "images/s"


def seconds(function: Callable[[], None]) -> float:
    """The faster of two runs after one to warm up."""
    function()
    times = []
    for _ in range(2):
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


BENCHMARKS = {"train": bench_train, "loss": bench_loss, "generate": bench_generate}

if __name__ == "__main__":
    main()
