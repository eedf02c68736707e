"""Ablations of the tokenizer on scenes: python bench/ablations.py [--only base "EMA decay"] [--seeds 1 2 3].

Trains each variant with each seed for the same steps on the same scenes, --jobs at a time, and writes the
table of all runs there are. A run's numbers lie in a file of --folder named after what it is made of
(configuration, seed, sizes, code): a finished run is not run again, and one of other code is left out.
Columns of the table:
one step, T steps   PSNR in dB of held-out scenes, decoded from all tokens; `drawn` by the sampler in use
any time            PSNR in dB of x_0 predicted from (x_t, V_1..V_k(t)), at the worst of the times 0.05 to 1
largest fall        the most that PSNR in one step loses as one more token is shown, in dB
used                share of the codes that occur among the held-out scenes
codes' CE           nats a token of a small decoder-only model on held-out codes, read in the variant's order
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments
from torch import Tensor

from ddt.config import to_dict
from ddt.data.images import to_float
from ddt.manifest import fingerprint
from ddt.mllm.build import new_model
from ddt.mllm.config import LanguageModelConfig
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import PackedBatch, pack
from ddt.mllm.sequences import Document
from ddt.mllm.vocabulary import Vocabulary
from ddt.params import load_params
from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.sections.tokenizer import TrainTokenizerParams
from ddt.tokenizer import DDTTokenizer, TokenizerLoss, psnr_db
from ddt.train.batching import to_device
from ddt.train.fit import fit

TRAIN_SCENES, HELD_OUT_SCENES, HELD_OUT_SEED = 4096, 128, 1
READER_STEPS, READER_BATCH = 100, 64
READER = LanguageModelConfig(
    width=96, layers=3, heads=3, kv_heads=3, mlp_width=256, max_length=64, tie_embeddings=True,
    rope_theta=10_000.0,
)  # fmt: skip
MODULES = (
    "ddt.tokenizer", "ddt.train", "ddt.mllm.loss",
    "ddt.scenes.sample", "ddt.scenes.render", "ddt.scenes.world",
)  # fmt: skip

BASE: dict[str, Any] = {"unquantized_steps": 150}  # over train_tokenizer of params.yaml, which trains longer
SELFTOKS = {"stage_ends": (0.2, 0.4, 0.6, 0.8, 1.0), "stage_tokens": (12, 10, 4, 4, 2)}
LINEAR = {"schedule": "linear", "stage_ends": (), "stage_tokens": ()}
TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {"": {}},
    "times": {
        "uniform": {"time_sampling": "uniform", "time_power": 1.0},
        "power 4": {"time_power": 4.0},
    },
    "k(t)": {
        "linear": LINEAR,
        "later": {"stage_ends": (0.2, 0.4, 0.6, 0.75, 1.0)},
        "Selftok's stages": {**SELFTOKS, "prefix": "inclusive"},
    },
    "preconditioning": {"none: x_t in, x_0 out": {"data_std": None}},
    "each position's codes": {"centred and scaled": {"position_norm": True}},
    "hidden tokens": {"zeroed, attended to": {"hidden_tokens": "zero"}},
    "target": {"velocity, x_t in": {"target": "velocity", "data_std": None}},
    "order": {"the other way": {"token_order": "V_1..V_T"}},
    "warm-up": {
        "none": {"unquantized_steps": 0},
        "20 steps": {"unquantized_steps": 20},
        "200 steps": {"unquantized_steps": 200},
    },
    "EMA decay": {"0.9": {"ema_decay": 0.9}, "0.999": {"ema_decay": 0.999}},
    "reset policy": {
        "never": {"dead_threshold": 0.0},
        "below 0.05": {"dead_threshold": 0.05},
        "below 1": {"dead_threshold": 1.0},
    },
    "code noise": {"0.1": {"code_noise": 0.1}, "0.3": {"code_noise": 0.3}},
    "commitment": {"1": {"commitment_weight": 1.0}, "on visible": {"commitment_on": "visible"}},
    "usage entropy": {
        "0.1, of all codes": {"entropy_weight": 0.1, "entropy_floor": 1.0},
    },
    "codebook": {str(size): {"codebook_size": size} for size in (128, 256, 1024)},
    "token stream": {"separate": {"token_stream": "separate", "hidden_tokens": "mask"}},
    "tail dropout": {"none": {"tail_dropout": 0.0}, "0.5": {"tail_dropout": 0.5}},
}
COLUMNS = {  # of the table: metric, decimals
    "one step": ("psnr_one_step_db", 2),
    "drawn": ("psnr_drawn_db", 2),
    "T steps": ("psnr_t_steps_db", 2),
    "any time": ("psnr_any_time_db", 2),
    "largest fall": ("largest_fall_db", 2),
    "used": ("codes_used", 3),
    "codes' CE": ("codes_ce_nats", 3),
}


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    option: str
    value: str
    changes: Mapping[str, Any]
    seed: int
    steps: int
    width: int | None

    @property
    def params(self) -> TrainTokenizerParams:
        base = load_params().train_tokenizer
        fit_config = {
            **to_dict(base.fit), "steps": self.steps, "warmup_steps": min(20, self.steps), "seed": self.seed,
        }  # fmt: skip
        widths = {} if self.width is None else {"encoder_width": self.width, "decoder_width": self.width}
        return TrainTokenizerParams(
            init=None,
            source=None,
            spatial=None,
            model=base.model.replace(**BASE, **widths).replace(**self.changes),
            fit=type(base.fit)(**{**fit_config, "betas": tuple(fit_config["betas"])}),
        )

    def file(self, folder: Path) -> Path:
        sizes = [TRAIN_SCENES, HELD_OUT_SCENES, READER_STEPS, READER_BATCH, to_dict(READER)]
        section = {"run": to_dict(self.params), "sizes": sizes}
        return folder / f"{fingerprint(section, {}, MODULES)[:32]}.json"


class Scenes:
    """Training scenes in batches drawn by (seed, step)."""

    def __init__(self, images_NCHW: Tensor, size: int, seed: int) -> None:
        self.images_NCHW, self.size, self.seed = images_NCHW, size, seed

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        rng = np.random.default_rng([self.seed, step])
        return self.images_NCHW[rng.integers(len(self.images_NCHW), size=self.size)[rank::world]]


class Codes:
    """Code sequences in batches of documents [BOS] [BOV] codes [EOV], of which only the codes are learned."""

    def __init__(self, ids_NT: np.ndarray, vocabulary: Vocabulary, seed: int) -> None:
        self.vocabulary, self.seed = vocabulary, seed
        self.documents = []
        for ids_T in ids_NT + vocabulary.text_size:
            ids = np.concatenate([[vocabulary.bos, vocabulary.bov], ids_T, [vocabulary.eov]])
            self.documents.append(Document(ids, vocabulary.is_visual(torch.from_numpy(ids)).numpy()))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> PackedBatch:
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.integers(len(self.documents), size=READER_BATCH)
        return self.of([self.documents[i] for i in chosen])

    def of(self, documents: list[Document]) -> PackedBatch:
        return pack(documents, len(documents[0]), self.vocabulary.pad)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--width", type=int, help="of encoder and decoder (default: the default's)")
    parser.add_argument("--folder", type=Path, default=Path("data/ablations"), help="of finished runs")
    parser.add_argument("--table", type=Path, default=Path("docs/ablations.md"), help="to write")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process of its own")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = runs(options.only, options)
    files = [run.file(options.folder) for run in chosen]  # before training: the code may be edited meanwhile
    missing = [(run, file) for run, file in zip(chosen, files, strict=True) if not file.exists()]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(finish, run, file, options.device, options.threads) for run, file in missing]
        for (run, _), done in zip(missing, waiting, strict=True):
            print(f"{run.option} {run.value}, seed {run.seed}: {done.result()}", flush=True)
    options.table.write_text(table(runs(list(VARIANTS), options), options.folder))
    print(options.table)


def runs(names: list[str], options: argparse.Namespace) -> list[Run]:
    """All runs of the variants named, all of a seed before the next one."""
    return [
        Run(option, value, changes, seed, options.steps, options.width)
        for seed in options.seeds
        for option in names
        for value, changes in VARIANTS[option].items()
    ]


def finish(run: Run, file: Path, device: str, threads: int) -> str:
    """Trains and measures one variant, keeps its numbers in a file, and tells some of them."""
    torch.set_num_threads(threads)
    result = train_and_measure(run, device)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result))
    unfinished.replace(file)
    return ", ".join(f"{name} {result[key]:.4g}" for name, (key, _) in COLUMNS.items())


def train_and_measure(run: Run, device: str) -> dict[str, Any]:
    """Trains one variant; its numbers on held-out scenes."""
    began = time.process_time()
    params = run.params
    images_NCHW = scenes(TRAIN_SCENES, 0, params.model.image_size)
    torch.manual_seed(run.seed)
    tokenizer = DDTTokenizer(params.model).to(device)
    batches = Scenes(images_NCHW, params.fit.global_batch, run.seed)
    result = fit(tokenizer, TokenizerLoss(params.model), batches, params.fit)
    if result.ema is not None:
        result.ema.copy_to(tokenizer)
    tokenizer.eval()
    held_out_BCHW = scenes(HELD_OUT_SCENES, HELD_OUT_SEED, params.model.image_size)
    measured = measure(tokenizer, held_out_BCHW)
    measured["codes_ce_nats"] = codes_cross_entropy(tokenizer, images_NCHW, held_out_BCHW, run.seed)
    return measured | {"processor_s": time.process_time() - began, "device": device_name(device)}


def device_name(device: str) -> str:
    """Of an accelerator its maker's name for it."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def scenes(count: int, seed: int, side_px: int) -> Tensor:
    """float32 [count, 3, S, S] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return to_float(np.stack([render(sample_scene(rng), side_px) for _ in range(count)]))


def measure(tokenizer: DDTTokenizer, images_BCHW: Tensor) -> dict[str, Any]:
    """PSNR by steps and by number of tokens, and use of the codebook."""
    codes_BT, config = tokenizer.encode(images_BCHW), tokenizer.config

    def psnr(**options: int) -> float:
        return psnr_db(tokenizer.decode(codes_BT, **options).cpu(), images_BCHW).mean().item()

    by_prefix = [psnr(num_steps=1, num_tokens=count) for count in range(1, config.num_tokens + 1)]
    at_times = [
        psnr_db(tokenizer.estimate(images_BCHW, codes_BT, t).cpu(), images_BCHW).mean().item() for t in TIMES
    ]
    falls = [before - after for before, after in zip(by_prefix, by_prefix[1:], strict=False)]
    return {
        "psnr_one_step_db": by_prefix[-1],
        "psnr_drawn_db": psnr(),
        "psnr_t_steps_db": psnr(num_steps=config.num_tokens),
        "psnr_any_time_db": min(at_times),
        "largest_fall_db": max(falls),
        "codes_used": len(codes_BT.unique()) / config.codebook_size,
    }


def codes_cross_entropy(tokenizer: DDTTokenizer, train_NCHW: Tensor, held_out: Tensor, seed: int) -> float:
    """Held-out cross-entropy of a small language model that learned the codes in the tokenizer's order."""
    config = tokenizer.config
    vocabulary = Vocabulary(text_size=3, codebook_size=config.codebook_size, bos=0, eos=1, pad=2)

    def read(images_NCHW: Tensor) -> Codes:
        codes_NT = torch.cat([tokenizer.encode(part).cpu() for part in images_NCHW.split(256)])
        turned_NT = codes_NT if config.token_order == "V_1..V_T" else codes_NT.flip(1)
        return Codes(turned_NT.numpy(), vocabulary, seed)

    settings = {"steps": READER_STEPS, "warmup_steps": 20, "global_batch": READER_BATCH, "seed": seed}
    overrides = [f"pretrain.fit.{name}={value}" for name, value in settings.items()]
    model = new_model(READER, vocabulary, seed).to(tokenizer.device)
    loss = LanguageModelLoss(vocabulary)
    fit(model, loss, read(train_NCHW), load_params(overrides=overrides).pretrain.fit, label="codes")
    kept = read(held_out)
    batch = to_device(kept.of(kept.documents), tokenizer.device)
    with torch.no_grad():
        return loss(model.eval(), batch, 0, None)[0].item()


def table(every: list[Run], folder: Path) -> str:
    """Markdown: a row a variant with finished runs, mean ± standard deviation over their seeds."""
    files = [(run, run.file(folder)) for run in every]
    results = [(run, json.loads(file.read_text())) for run, file in files if file.exists()]
    devices = sorted({result["device"] for _, result in results})
    lines = [
        "# Ablations of the tokenizer",
        "",
        "Made by `bench/ablations.py`, which says what the columns are: the default tokenizer, "
        f"{every[0].params.model.decoder_width} wide, after\n{every[0].steps} steps (warm-up "
        f"{BASE['unquantized_steps']}) on {TRAIN_SCENES} scenes, one option changed at a time. Mean ± "
        f"standard deviation\nover the seeds. Device: {', '.join(devices) or 'none yet'}.",
        "",
        f"| option | value | seeds | {' | '.join(COLUMNS)} | processor s |",
        f"|---|---|--:|{'--:|' * (len(COLUMNS) + 1)}",
    ]
    for option, value in dict.fromkeys((run.option, run.value) for run in every):
        rows = [result for run, result in results if (run.option, run.value) == (option, value)]
        if rows:
            cells = [spread([row[name] for row in rows], digits) for name, digits in COLUMNS.values()]
            cells.append(spread([row["processor_s"] for row in rows], 0))
            lines.append(f"| {option} | {value} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], digits: int) -> str:
    """`mean ± standard deviation`, or the value where there is one."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
