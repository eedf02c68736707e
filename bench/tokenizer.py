"""Speed of the tokenizer: python bench/tokenizer.py [--batch 8] [--json FILE].

train     images a second through the training loop, and the share of this machine's bf16 matrix peak that
          its counted operations make. Aim: at least 40 % at a width of 256.
encode    images a second
decode    images a second in 1, 10 and 50 steps
The peak is what a square product of bf16 matrices reaches here, in the same run. On CUDA blocks are compiled,
as in a long training, before the measured steps, and the defaults fill the machine. Images lie on the device.
The optimizer is AdamW: what Muon adds, which the profiles train with, is not in these numbers.
"""

from __future__ import annotations

import argparse

import torch
from measure import arguments, now, report, seconds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddt.params import load_params
from ddt.tokenizer import DDTConfig, DDTTokenizer, TokenizerLoss
from ddt.train.compiled import COMPILE_FROM_STEPS, compiled_blocks
from ddt.train.fit import fit
from ddt.train.precision import autocast, has_bf16

DECODE_STEPS = (1, 10, 50)
COUNTED_IMAGES = 8  # operations are counted on so many: each image takes the same
# The first step compiles and places the codes. On CUDA losses are read every 8 steps and metrics once.
CPU_SIZES = {"batch": 8, "steps": 3, "warm_steps": 2, "peak_size": 2048}
CUDA_SIZES = {"batch": 512, "steps": 20, "warm_steps": 20, "peak_size": 8192}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=256, help="of encoder and decoder")
    parser.add_argument("--batch", type=int, help="default: 8, on CUDA 512")
    parser.add_argument("--steps", type=int, help="measured training steps (default: 3, on CUDA 20)")
    parser.add_argument("--warm-steps", type=int, help="training steps before those (default: 2, on CUDA 20)")
    parser.add_argument("--peak-size", type=int, help="side of its matrices (default: 2048, on CUDA 8192)")
    options = sized(parser.parse_args())
    torch.set_num_threads(options.threads)
    config = tokenizer_config(options)
    size = (options.batch, 3, config.image_size, config.image_size)
    images_BCHW = torch.rand(size, device=options.device) * 2 - 1
    peak = matrix_peak(options.peak_size, options.device)
    flops = training_flops(config, images_BCHW[:COUNTED_IMAGES])
    step_s, compiled = training_step_seconds(config, images_BCHW, options)
    results = {
        "peak_gflops": peak / 1e9,
        "compiled_blocks": compiled,
        "train_gflop_per_image": flops / 1e9,
        "train_images_per_s": options.batch / step_s,
        "train_share_of_peak": flops * options.batch / step_s / peak,
        **use_speeds(config, images_BCHW, options.device),
    }
    for name, value in results.items():
        print(f"{name:24} {value:,.3f}")
    report(options, results)


def sized(options: argparse.Namespace) -> argparse.Namespace:
    """The options with what was not given filled in for the device."""
    defaults = CUDA_SIZES if options.device.startswith("cuda") else CPU_SIZES
    given = {name: value for name, value in vars(options).items() if value is not None}
    return argparse.Namespace(**{**vars(options), **defaults, **given})


def tokenizer_config(options: argparse.Namespace) -> DDTConfig:
    """The h200 profile's tokenizer with one width for both halves."""
    heads = max(1, options.width // 64)
    return load_params(profile="h200").train_tokenizer.model.replace(
        encoder_width=options.width, decoder_width=options.width, encoder_heads=heads, decoder_heads=heads,
        codebook_size=min(1024, 64 * options.batch), unquantized_steps=0,
    )  # fmt: skip


def matrix_peak(size: int, device: str) -> float:
    """Operations a second of a product of two bf16 matrices (float32 where there is no bf16)."""
    dtype = torch.bfloat16 if has_bf16(torch.device(device)) else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, runs=5)


def training_flops(config: DDTConfig, images_BCHW: Tensor) -> float:
    """Operations of a forward and backward pass of one image, counted by torch: matrix products only."""
    model = DDTTokenizer(config).to(images_BCHW.device)
    model.quantizer.ready.fill_(True)  # the first step's k-means is no part of the others
    with FlopCounterMode(display=False) as counter, autocast(images_BCHW.device):
        TokenizerLoss(config)(model, images_BCHW, 0)[0].backward()
    return counter.get_total_flops() / len(images_BCHW)


class SameImages:
    """The same batch at every step: what is measured is the model, not the reading of images."""

    def __init__(self, images_BCHW: Tensor) -> None:
        self.images_BCHW = images_BCHW

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        return self.images_BCHW


def training_step_seconds(
    config: DDTConfig, images_BCHW: Tensor, options: argparse.Namespace
) -> tuple[float, int]:
    """Mean over the measured steps of the training loop, AdamW's work included; and the compiled blocks."""
    settings = {
        "steps": options.steps + options.warm_steps, "log_every": options.warm_steps, "warmup_steps": 1,
        "optimizer": "adamw", "global_batch": options.batch, "checkpoint_every": 10**9, "lr": 1e-4,
    }  # fmt: skip
    overrides = [f"train_tokenizer.fit.{name}={value}" for name, value in settings.items()]
    model, times = DDTTokenizer(config).to(options.device), list[float]()
    with compiled_blocks(model, images_BCHW.device, COMPILE_FROM_STEPS) as compiled:
        fit(
            model, TokenizerLoss(config), SameImages(images_BCHW),
            load_params(overrides=overrides).train_tokenizer.fit,
            hooks=[lambda *_: times.append(now())], progress=False,
        )  # fmt: skip
    return (times[-1] - times[0]) / options.steps, compiled


def use_speeds(config: DDTConfig, images_BCHW: Tensor, device: str) -> dict[str, float]:
    """Images a second of `encode`, and of `decode` by number of steps."""
    tokenizer = DDTTokenizer(config).to(device).eval()
    codes_BT = tokenizer.encode(images_BCHW)
    count = len(images_BCHW)
    speeds = {"encode_images_per_s": count / seconds(lambda: tokenizer.encode(images_BCHW), runs=1)}
    for steps in DECODE_STEPS:
        taken = seconds(lambda steps=steps: tokenizer.decode(codes_BT, num_steps=steps), runs=1)
        speeds[f"decode_{steps}_images_per_s"] = count / taken
    return speeds


if __name__ == "__main__":
    main()
