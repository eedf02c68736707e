"""The plan's times against measured ones: python bench/plan.py [--device cuda] [--json FILE].

`ddt plan` tells how long training takes from the operations of a step and the rate at which a machine does
them. Here that rate is measured on a small model and the step of a larger one predicted from it, then
measured too. Aim: within 15 %. The rate is what `ddt plan --tflops` takes.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import arguments, now, report

from ddt.mllm.build import attention_kind, new_model
from ddt.mllm.config import LanguageModelConfig
from ddt.mllm.footprint import flops_per_token
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import PackedBatch, pack
from ddt.mllm.sequences import Document
from ddt.mllm.vocabulary import Vocabulary
from ddt.params import load_params
from ddt.train.fit import fit

VOCABULARY = Vocabulary(text_size=4096, codebook_size=1024, bos=0, eos=1, pad=2)
WARM_STEPS = 2


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--small", type=int, nargs=2, default=[512, 4], metavar=("WIDTH", "LAYERS"))
    parser.add_argument("--large", type=int, nargs=2, default=[768, 8], metavar=("WIDTH", "LAYERS"))
    parser.add_argument("--rows", type=int, default=4, help="of a step")
    parser.add_argument("--row-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="measured, after two to warm up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flops, measured = step(*options.small, options)
    rate = flops / measured
    print(f"{rate / 1e12:.4g} TFLOP/s with {options.small[0]} x {options.small[1]} layers", flush=True)
    flops, measured = step(*options.large, options)
    predicted = flops / rate
    size = f"{options.large[0]} x {options.large[1]} layers"
    print(f"{size}: {predicted:.4g} s predicted, {measured:.4g} s measured, ratio {predicted / measured:.3f}")
    results = {"tflops": rate / 1e12, "predicted_s": predicted, "measured_s": measured}
    report(options, {**results, "ratio": predicted / measured})


def step(width: int, layers: int, options: argparse.Namespace) -> tuple[float, float]:
    """Operations of a training step by the plan's arithmetic, and its seconds."""
    shape = LanguageModelConfig(
        width, layers, width // 64, width // 64, width * 8 // 3, options.row_length, True, 10_000.0
    )
    model = new_model(shape, VOCABULARY, seed=0)
    model.set_attn_implementation(attention_kind(options.device, model.config))
    settings = {
        "steps": options.steps + WARM_STEPS, "warmup_steps": 1, "log_every": 1, "optimizer": "adamw",
        "global_batch": options.rows, "checkpoint_every": 10**9,
    }  # fmt: skip
    overrides = [f"pretrain.fit.{key}={value}" for key, value in settings.items()]
    times: list[float] = []
    fit(
        model.to(options.device), LanguageModelLoss(VOCABULARY), FullRows(options.rows, options.row_length),
        load_params(overrides=overrides).pretrain.fit, hooks=[lambda *_: times.append(now())], progress=False,
    )  # fmt: skip
    flops = flops_per_token(model.config, options.row_length) * options.rows * options.row_length
    return float(flops), (times[-1] - times[WARM_STEPS - 1]) / options.steps


class FullRows:
    """The same rows in every step, each one document, all of it learned."""

    def __init__(self, rows: int, row_length: int) -> None:
        rng = np.random.default_rng(0)
        ids = rng.integers(3, VOCABULARY.size, (rows, row_length))
        documents = [Document(row, np.arange(row_length) > 0) for row in ids]
        self.rows = pack(documents, row_length, VOCABULARY.pad)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> PackedBatch:
        return self.rows


if __name__ == "__main__":
    main()
