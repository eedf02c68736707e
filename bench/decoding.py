"""Decoding with the tokens read once: python bench/decoding.py [--steps 50] [--batch 4] [--threads 1].

One decoder with `token_stream: separate`, decoded as it is, and decoded with the token stream read anew and
the encoder run for its masks at each step, as the authors' follow-up does. The two give the same images bit
for bit. The joint stream is timed beside them. Sizes are those of the h200 profile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ddt.params import load_params
from ddt.tokenizer import DDTTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_params(profile="h200").train_tokenizer.model.replace(hidden_tokens="mask")
    separate = DDTTokenizer(config.replace(token_stream="separate")).eval()
    joint = DDTTokenizer(config).eval()
    codes_BT = torch.randint(config.codebook_size, (options.batch, config.num_tokens))
    read_once, seconds = timed(lambda: separate.decode(codes_BT, options.steps))
    read_each, seconds_each = timed(lambda: decode_reading_each_step(separate, codes_BT, options.steps))
    assert torch.equal(read_once, read_each)
    _, seconds_joint = timed(lambda: joint.decode(codes_BT, options.steps))
    print(f"{options.steps} steps, {options.batch} images, {options.threads} threads")
    print(f"tokens read once                         {seconds:8.2f} s")
    print(f"tokens and encoder run at each step      {seconds_each:8.2f} s, {seconds_each / seconds:.2f}x")
    print(f"joint token stream, no encoder           {seconds_joint:8.2f} s, {seconds_joint / seconds:.2f}x")


def decode_reading_each_step(tokenizer: DDTTokenizer, codes_BT: Tensor, steps: int) -> Tensor:
    """`decode` without its cache, and with the encoder's pass over the noisy image at each step."""
    plain = tokenizer.decoder.forward

    def forward(x: Tensor, t: Tensor, codes: Tensor, visible: Tensor, tokens: object) -> Tensor:
        tokenizer.encoder(x)
        return plain(x, t, codes, visible)

    tokenizer.decoder.forward = forward  # type: ignore[assignment]
    try:
        return tokenizer.decode(codes_BT, steps)
    finally:
        tokenizer.decoder.forward = plain  # type: ignore[method-assign]


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, and the processor's seconds of the better of two runs: other work does not count."""
    best = float("inf")
    for _ in range(2):
        begin = time.process_time()
        result = run()
        best = min(best, time.process_time() - begin)
    return result, best


if __name__ == "__main__":
    main()
