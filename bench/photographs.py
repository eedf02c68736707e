"""DDT against the spatial baseline on photographs: python bench/photographs.py SHARD ... --held-out SHARD.

Both have the same number of tokens and codes and train for the same time on the same images, one after the
other: --seconds each, schedule included (of the processor with one thread, else of the clock). Printed are
the PSNR of some held-out images as training goes, of all at its end in one step and as it is meant to be
decoded, of some in T steps, the share of the codes in use, the bits that an image's codes can carry (the
entropy of each position over the training images, added up), and both differences. Aim: DDT not below the
baseline (paper: 21.7 dB against 18.9 to 21.5), at most 3 dB lost in T steps, bits within 5 %. Sizes
are the photos profile's; --set train_tokenizer.model.num_tokens=64 and the like change them. Each learns best
at a rate of its own: --set-spatial train_tokenizer.fit.lr=1e-3.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments, now, report
from PIL import Image
from torch import Tensor

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.baselines.kinds import ImageTokenizer, loss_of, new_image_tokenizer
from ddt.data.decode import decode_image
from ddt.data.images import to_float
from ddt.data.readers import read_source
from ddt.params import Params, load_params
from ddt.records import Reject
from ddt.tokenizer import DDTConfig, psnr_db, reconstruction_grid
from ddt.tokenizer.codebook_metrics import position_perplexity
from ddt.train.config import FitConfig
from ddt.train.fit import fit

TIMED_STEPS, WARM_STEPS = 12, 4
LOOKS, LOOKED_AT = 12, 128  # so often at so many of the held-out images while training goes, and in T steps
SHOWN = 8


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("train", nargs="+", type=Path, help="tar or Parquet shards to train on")
    parser.add_argument("--held-out", nargs="+", type=Path, required=True, help="shards to measure on")
    parser.add_argument("--seconds", type=float, default=600, help="of training, each")
    parser.add_argument("--spatial-width", type=int, default=32)
    parser.add_argument("--spatial-blocks", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=("ddt", "spatial"), default=["ddt", "spatial"])
    parser.add_argument("--set", nargs="+", default=[], help="section.key=value over the photos profile")
    parser.add_argument("--set-spatial", nargs="+", default=[], help="more of them, for the baseline alone")
    parser.add_argument("--pictures", type=Path, help="folder for a grid of reconstructions each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    params = load_params(profile="photos", overrides=options.set)
    model = params.train_tokenizer.model
    train_NHWC, held_out_NHWC = (
        photographs(paths, model.image_size, params) for paths in (options.train, options.held_out)
    )
    print(f"{len(train_NHWC)} images to train on, {len(held_out_NHWC)} held out", flush=True)
    sizes = SpatialSizes(options.spatial_width, options.spatial_blocks)
    theirs = load_params(profile="photos", overrides=options.set + options.set_spatial).train_tokenizer
    trained: dict[str, tuple[DDTConfig | SpatialConfig, FitConfig]] = {
        "ddt": (model, params.train_tokenizer.fit),
        "spatial": (SpatialConfig.like(theirs.model, sizes), theirs.fit),
    }
    results = {
        name: train_and_measure(name, *trained[name], train_NHWC, to_float(held_out_NHWC), options)
        for name in options.only
    }
    if len(results) == 2:
        for name in ("psnr_db", "drawn_psnr_db"):
            results[f"difference_{name}"] = results["ddt"][name] - results["spatial"][name]
            print(f"DDT - spatial, {name}: {results[f'difference_{name}']:+.2f}")
    report(options, results)


def photographs(paths: Sequence[Path], side_px: int, params: Params) -> np.ndarray:
    """uint8 [N, S, S, 3] of all images in the shards that pass `ingest`'s checks."""
    found = (row for path in paths for row in read_source(path, path.name, params.ingest))
    return np.stack([decode_image(row["image"], side_px) for row in found if not isinstance(row, Reject)])


class Photographs:
    """Batches drawn by (seed, step), each image as it is or mirrored."""

    def __init__(self, images_NHWC: np.ndarray, size: int, seed: int) -> None:
        self.images_NHWC, self.size, self.seed = images_NHWC, size, seed

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        rng = np.random.default_rng([self.seed, step])
        images_BHWC = self.images_NHWC[rng.integers(len(self.images_NHWC), size=self.size)]
        mirrored = rng.random(self.size) < 0.5
        images_BHWC[mirrored] = images_BHWC[mirrored, :, ::-1]
        return to_float(images_BHWC[rank::world])


def train_and_measure(
    name: str,
    config: DDTConfig | SpatialConfig,
    settings: FitConfig,
    train_NHWC: np.ndarray,
    held_out_BCHW: Tensor,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Trains one tokenizer for `options.seconds` and measures it on the held-out images."""
    batches = Photographs(train_NHWC, settings.global_batch, settings.seed)

    def new() -> ImageTokenizer:
        torch.manual_seed(settings.seed)
        return new_image_tokenizer(config).to(options.device)

    steps = max(LOOKS, round(options.seconds / step_seconds(new(), config, settings, batches)))
    tokenizer, curve, spent = new(), list[tuple[float, float]](), 0.0
    began = now()

    def look(step: int, _: dict[str, float]) -> None:
        nonlocal spent
        paused = now()
        tokenizer.eval()
        curve.append((paused - began - spent, psnr(tokenizer, held_out_BCHW[:LOOKED_AT])))
        tokenizer.train()
        spent += now() - paused

    fitted = fit_for(settings, steps, log_every=-(-steps // LOOKS))
    result = fit(tokenizer, loss_of(config), batches, fitted, hooks=[look], label=name)
    taken = now() - began - spent
    if result.ema is not None:
        result.ema.copy_to(tokenizer)
    tokenizer.eval()
    codes_BT = torch.cat(
        [tokenizer.encode(to_float(part)) for part in np.array_split(train_NHWC, -(-len(train_NHWC) // 128))]
    )
    measured: dict[str, Any] = {
        "steps": steps,
        "training_s": taken,
        "parameters": sum(weights.numel() for weights in tokenizer.parameters()),
        "psnr_db": psnr(tokenizer, held_out_BCHW),
        "drawn_psnr_db": psnr(tokenizer, held_out_BCHW, num_steps=config.decode_steps),
        "codes_used": len(codes_BT.unique()) / config.codebook_size,
        "bits": position_perplexity(codes_BT).log2().sum().item(),
        "curve": curve,
    }
    if isinstance(config, DDTConfig):
        some_BCHW = held_out_BCHW[:LOOKED_AT]
        measured["psnr_t_steps_db"] = psnr(tokenizer, some_BCHW, num_steps=config.num_tokens)
    line = ", ".join(f"{key} {value:.4g}" for key, value in measured.items() if key != "curve")
    print(f"{name}: {line}", flush=True)
    print("  " + ", ".join(f"{at:.0f} s {value:.2f} dB" for at, value in curve), flush=True)
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        save_grid(tokenizer, held_out_BCHW[:SHOWN], options.pictures / f"{name}.png")
    return measured


def step_seconds(
    tokenizer: ImageTokenizer, config: DDTConfig | SpatialConfig, settings: FitConfig, batches: Photographs
) -> float:
    """Seconds a training step takes once warm, quantized as most of them are."""
    times: list[float] = []
    hooks: list[Callable[..., None]] = [lambda *_: times.append(now())]
    shorter = fit_for(settings, TIMED_STEPS, log_every=1)
    fit(
        tokenizer, loss_of(config.replace(unquantized_steps=1)), batches, shorter, hooks=hooks, progress=False
    )
    return (times[-1] - times[WARM_STEPS]) / (TIMED_STEPS - 1 - WARM_STEPS)


def fit_for(settings: FitConfig, steps: int, log_every: int) -> FitConfig:
    """The settings for so many steps, without checkpoints."""
    changes = {"steps": steps, "log_every": log_every, "checkpoint_every": 10**9}
    return dataclasses.replace(settings, **changes, warmup_steps=min(settings.warmup_steps, steps))


def psnr(tokenizer: ImageTokenizer, images_BCHW: Tensor, num_steps: int = 1) -> float:
    """Mean PSNR in dB of images put through the tokenizer."""
    decoded = [
        tokenizer.decode(tokenizer.encode(part), num_steps=num_steps).cpu() for part in images_BCHW.split(128)
    ]
    return psnr_db(torch.cat(decoded), images_BCHW).mean().item()


def save_grid(tokenizer: ImageTokenizer, images_BCHW: Tensor, path: Path) -> None:
    """The originals beside their reconstructions, in one step, from a quarter, half and all of the tokens."""
    count = tokenizer.config.num_tokens
    prefixes = [count // 4, count // 2, count]
    grid: Image.Image = reconstruction_grid(tokenizer, images_BCHW, prefixes, num_steps=1, scale=2)
    grid.save(path)


if __name__ == "__main__":
    main()
