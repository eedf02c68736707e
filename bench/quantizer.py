"""The quantizer against vector-quantize-pytorch: python bench/quantizer.py [--batch 32] [--json FILE].

One training step's lookup and EMA update of the same vectors and codebook, without reset of dead codes on
either side: time, and peak memory in a process of its own. Aim: at most half its time and a tenth of its
memory at the defaults, the paper's sizes. The reference holds three matrices of vectors x codes, one of them
int64: 16 GB at the defaults. Codes that the two choose differently are counted (rounding, among near ties).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import arguments, peak_bytes, report, seconds
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from ddt.tokenizer.lookup import unit
from ddt.tokenizer.quantizer import Quantizer

DECAY = 0.99
Step = Callable[[], Tensor]  # one training step; gives the codes [B, T]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--num-tokens", type=int, default=480)
    parser.add_argument("--code-dim", type=int, default=16)
    parser.add_argument("--codebook-size", type=int, default=65_536)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    differing = (ours(options)() != theirs(options)()).float().mean().item()
    results: dict[str, dict[str, float]] = {}
    for name, unit_name, measured in (
        ("seconds", "s", lambda make: seconds(make(options))),
        ("peak", "MB", lambda make: peak_bytes(make, options, device=options.device) / 1e6),
    ):
        mine, other = measured(ours), measured(theirs)
        results[name] = {"ours": mine, "vector_quantize_pytorch": other, "ratio": mine / other}
        print(f"{name:8} {mine:,.2f} {unit_name} against {other:,.2f}: ratio {mine / other:.3f}", flush=True)
    print(f"codes that differ: {differing:.2e} of all")
    report(options, {**results, "differing": differing})


def inputs(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Vectors [B, T, d] and a unit codebook [K, d], the same in every process."""
    generator = torch.Generator().manual_seed(0)
    z_BTd = torch.randn(options.batch, options.num_tokens, options.code_dim, generator=generator)
    codebook_Kd = unit(torch.randn(options.codebook_size, options.code_dim, generator=generator))
    return z_BTd.to(options.device), codebook_Kd.to(options.device)


def ours(options: argparse.Namespace) -> Step:
    z_BTd, codebook_Kd = inputs(options)
    quantizer = Quantizer(
        options.codebook_size, options.code_dim, ema_decay=DECAY, dead_threshold=0.0, unquantized_steps=0
    ).to(options.device)
    quantizer.codebook_Kd.copy_(codebook_Kd)
    quantizer.sums_Kd.copy_(codebook_Kd)
    quantizer.ready.fill_(True)

    def step() -> Tensor:
        with torch.no_grad():
            codes_BT = quantizer(z_BTd, step=0).codes_BT
            quantizer.finish_step(step=0)
        assert codes_BT is not None
        return codes_BT

    return step


def theirs(options: argparse.Namespace) -> Step:
    z_BTd, codebook_Kd = inputs(options)
    reference = VectorQuantize(
        dim=options.code_dim, codebook_size=options.codebook_size, use_cosine_sim=True, decay=DECAY,
        threshold_ema_dead_code=0, commitment_weight=1.0,
    ).to(options.device)  # fmt: skip
    reference._codebook.embed.data.copy_(codebook_Kd[None])
    reference._codebook.embed_avg.data.copy_(codebook_Kd[None])

    def step() -> Tensor:
        with torch.no_grad():
            return reference(z_BTd)[1]

    return step


if __name__ == "__main__":
    main()
