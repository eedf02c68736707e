"""Muon against torch's: python bench/muon.py [--threads 2] [--json FILE].

One step of the optimizer on the matrices of a section's model in params.yaml, the same gradients for both.
The ratio is torch's time to ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import arguments, report, seconds
from torch import nn

from ddt.mllm.build import llama_config
from ddt.mllm.vocabulary import Vocabulary
from ddt.params import load_params
from ddt.tokenizer import DDTTokenizer
from ddt.train.muon import Muon
from ddt.train.optimizer import is_hidden_matrix

STEPS = 20  # in one measurement: a step of the default takes milliseconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--profile", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, float]] = {}
    for section in ("train_tokenizer", "pretrain"):
        ours = seconds(stepping(section, options, lambda p: Muon(p, 1e-3, 0.05))) / STEPS
        theirs = seconds(stepping(section, options, torchs)) / STEPS
        results[section] = {"ours_s": ours, "torch_s": theirs, "ratio": theirs / ours}
        print(
            f"{section}: {1e3 * ours:.1f} ms against {1e3 * theirs:.1f} ms: {theirs / ours:.2f} x", flush=True
        )
    report(options, results)


def torchs(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")


def stepping(
    section: str, options: argparse.Namespace, new: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> Callable[[], None]:
    """STEPS steps on the hidden matrices of the section's model."""
    torch.manual_seed(0)
    named = sorted(model(section, options.profile).named_parameters())
    hidden = [nn.Parameter(p.detach().to(options.device)) for n, p in named if is_hidden_matrix(n, p)]
    for parameter in hidden:
        parameter.grad = torch.randn_like(parameter)
    optimizer = new(hidden)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return run


def model(section: str, profile: str | None) -> nn.Module:
    params = load_params(profile=profile)
    if section == "train_tokenizer":
        return DDTTokenizer(params.train_tokenizer.model)
    from transformers import AutoModelForCausalLM

    vocabulary = Vocabulary(text_size=704, codebook_size=128, bos=0, eos=1, pad=2)
    return AutoModelForCausalLM.from_config(llama_config(params.pretrain.model, vocabulary))


if __name__ == "__main__":
    main()
