"""Decoding with the tokens read once: python bench/decoding.py [--steps 50] [--batch 4] [--json FILE].

One decoder with `token_stream: separate`, decoded as it is, and decoded with the token stream read anew and
the encoder run for its masks at each step, as the authors' follow-up does. The two give the same images bit
for bit. The joint stream is timed beside them. Sizes are those of the h200 profile.
"""

from __future__ import annotations

import torch
from measure import arguments, report, seconds
from torch import Tensor

from ddt.params import load_params
from ddt.tokenizer import DDTTokenizer


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_params(profile="h200").train_tokenizer.model.replace(hidden_tokens="mask")
    separate = DDTTokenizer(config.replace(token_stream="separate")).to(options.device).eval()
    joint = DDTTokenizer(config).to(options.device).eval()
    codes_BT = torch.randint(config.codebook_size, (options.batch, config.num_tokens))
    assert torch.equal(separate.decode(codes_BT, 3), decode_reading_each_step(separate, codes_BT, 3))
    steps = options.steps
    results = {
        "tokens read once": seconds(lambda: separate.decode(codes_BT, steps)),
        "tokens and encoder run at each step": seconds(
            lambda: decode_reading_each_step(separate, codes_BT, steps)
        ),
        "joint token stream, no encoder": seconds(lambda: joint.decode(codes_BT, steps)),
    }
    print(f"{steps} steps, {options.batch} images")
    for name, taken in results.items():
        print(f"{name:36} {taken:8.2f} s, {taken / results['tokens read once']:.2f}x")
    report(options, results)


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


if __name__ == "__main__":
    main()
