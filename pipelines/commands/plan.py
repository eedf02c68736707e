"""What a run would do, how large its models are, and what training them takes: `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt.manifest import Manifest
from ddt.params import Params
from ddt.store import open_store
from pipelines.commands.forecast import forecast
from pipelines.commands.forecast import table as forecast_table
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.engine.runner import FAILED_GATE, is_finished, stage_context
from pipelines.reports.workspace import manifest_path

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ddt.mllm.config import LoraConfig

# Published shapes of the paper's base models, for a plan where the checkpoint is not at hand.
BASE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Meta-Llama-3-8B": (
        "llama",
        {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
    ),
    "google/gemma-2-2b": (
        "gemma2",
        {
            "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 8192, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
LAYOUTS = ((1, 1), (8, 1), (8, 2), (8, 4), (8, 8), (64, 1), (64, 8), (512, 8))  # workers, tensor_parallel
GIB = 1 << 30
ASSUMED_TFLOPS = 0.4 * 989  # a worker's in training: 40 % of an H100's or H200's dense bf16


def print_plan(params: Params, tflops: float = ASSUMED_TFLOPS, rows: int | None = None) -> None:
    """Stages with their state, what each would take, then the models' sizes and what training them takes.

    `tflops` is what a worker reaches in training, in 10^12 operations a second: bench/plan.py measures it.
    `rows`: samples of the source, where nothing else tells.
    """
    unknown = set(params.resources.throughputs) - set(STAGES)
    if unknown:
        raise ValueError(f"resources.throughputs.{min(unknown)}: expected one of {', '.join(STAGES)}")
    print(f"{'stage':16} {'state':12} reads")
    for stage in STAGES:
        print(
            f"{stage:16} {stage_state(params, stage):12} {', '.join(INPUTS[stage]) or params.ingest.source}"
        )
    print("\nwhat each would take, rows/h being those of a core, or of an accelerator where it has them")
    _print_table(
        forecast_table(forecast(params, rows, _by_tflops(params, tflops)), params.resources.prices.currency)
    )
    print()
    for name, value in plan_sizes(params).items():
        print(f"{name:44} {value:>20,}")
    at_once, lora = params.pretrain.fit.micro_batch or 1, params.pretrain.lora
    length = params.pretrain.row_length
    print(f"\npre-training by layout, {at_once} rows of {length} tokens at once, GiB a worker;")
    if lora is not None:
        print(f"adapters of rank {lora.rank} beside frozen weights, which are whole on every worker;")
    source = " (40 % of an H100's peak)" if tflops == ASSUMED_TFLOPS else ""
    print(f"time at {tflops:g} TFLOP/s a worker{source}, sequences packed")
    for line in plan_layouts(params, language_model_config(params), at_once, tflops):
        print(" ".join(f"{cell:>11}" for cell in line))


def _print_table(lines: list[list[str]]) -> None:
    """Columns as wide as what is in them, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *cells)).rstrip())


def _by_tflops(params: Params, tflops: float) -> dict[str, float]:
    """Sequences an hour of an accelerator in training the language model; nothing for cores."""
    if not params.resources.gpus_per_worker:
        return {}
    config, rates = language_model_config(params), {}
    for stage, section in (("pretrain", params.pretrain), ("finetune", params.finetune)):
        flops = _flops_of_row(config, section.row_length, section.lora)
        rates[stage] = 3600 * tflops * 1e12 / flops / _row_share(params, section.row_length)
    return rates


def stage_state(params: Params, stage: str) -> str:
    """`done`, `failed` (its gate), `stale` (made by other parameters, inputs or code), or `to do`."""
    workspace = Path(params.paths.workspace)
    paths = [manifest_path(workspace, name) for name in (*INPUTS[stage], stage)]
    if not all(path.is_file() for path in paths):
        return "to do"
    *inputs, own = (bool(Manifest.load(path).extra.get(FAILED_GATE)) for path in paths)
    if any(inputs):
        return "to do"
    if own:
        return "failed"
    return "done" if is_finished(stage_context(stage, params)) else "stale"


def plan_sizes(params: Params) -> dict[str, int]:
    """Parameters, tokens and samples of the run; models are built on the meta device only."""
    import torch

    from ddt.baselines.kinds import new_image_tokenizer
    from ddt.mllm.footprint import parameter_counts

    tokenizer, model = params.train_tokenizer, params.pretrain
    with torch.device("meta"):
        parts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in new_image_tokenizer(tokenizer.image_tokenizer).named_children()
        }
    config = tokenizer.image_tokenizer
    sizes = {f"tokenizer {name} parameters": count for name, count in parts.items() if count}
    sizes |= {
        "tokenizer parameters": sum(parts.values()),
        "tokens per image": config.num_tokens,
        "codebook size": config.codebook_size,
        "bits per image": config.bits_per_image,
        "tokenizer training images": tokenizer.fit.steps * tokenizer.fit.global_batch,
    }
    shape = language_model_config(params)
    block, outside = parameter_counts(shape)
    sizes |= {
        "vocabulary": shape.vocab_size,
        "language model parameters": shape.num_hidden_layers * block + outside,
        "pre-training sequences": model.fit.steps * model.fit.global_batch,
        "instruction tuning sequences": params.finetune.fit.steps * params.finetune.fit.global_batch,
        "pairs kept": params.select.keep,
        "token shard bytes": 2 * params.select.keep * config.num_tokens,
    }
    return sizes


def language_model_config(params: Params) -> PreTrainedConfig:
    """The language model's Hugging Face config, its vocabulary extended by the visual ids."""
    from transformers import AutoConfig

    from ddt.data.refs import resolve
    from ddt.mllm.build import llama_config, load_config, load_tokenizer
    from ddt.mllm.vocabulary import extend_tokenizer

    model, codebook_size = params.pretrain, params.train_tokenizer.model.codebook_size
    if model.init in BASE_MODELS:
        kind, values = BASE_MODELS[model.init]
        config = AutoConfig.for_model(kind, **values)
        config.vocab_size += codebook_size + 2
        return config
    vocabulary = extend_tokenizer(load_tokenizer(resolve(model.text_tokenizer)), codebook_size)
    if model.model is not None:
        return llama_config(model.model, vocabulary)
    config = load_config(resolve(str(model.init), open_store(params.paths.store)))
    config.vocab_size = vocabulary.size  # rows of the checkpoint past the text's are given up
    return config


def plan_layouts(
    params: Params, config: PreTrainedConfig, rows: int, tflops: float = ASSUMED_TFLOPS
) -> list[list[str]]:
    """Memory and time of pre-training for the usual layouts, a row each, after a row of headings.

    `rows` of `row_length` tokens go through a worker at once. Activations are recomputed, weights sharded but
    with `pretrain.lora`, where they stay whole. `tflops`: what a worker reaches in training.
    """
    from ddt.mllm.build import attention_kind
    from ddt.mllm.footprint import Layout, Tuning, footprint

    fused = attention_kind("cuda", config) == "sdpa"
    length, fit, lora = params.pretrain.row_length, params.pretrain.fit, params.pretrain.lora
    new_rows = params.train_tokenizer.model.codebook_size + 2
    tuning = Tuning(lora, new_rows) if lora is not None else None
    flops = _flops_of_row(config, length, lora)
    table = [["workers", "tensor", "states", "gathered", "activations", "loss", "GiB each", "rows/s", "days"]]
    for workers, tensor in LAYOUTS:
        if config.num_key_value_heads % tensor or (tuning is not None and tensor > 1):
            continue
        layout = Layout(workers, tensor, spread=tuning is None, recompute=True)
        found = footprint(config, layout, rows, length, fit.bf16, fused, tuning)
        parts = (found.states, found.gathered, found.activations, found.loss, found.total)
        rows_per_s = workers * tflops * 1e12 / flops
        days = fit.steps * fit.global_batch * _row_share(params, length) / rows_per_s / 86_400
        gibs = [f"{part / GIB:.1f}" for part in parts]
        table.append([str(workers), str(tensor), *gibs, f"{rows_per_s:.1f}", f"{days:.1f}"])
    return table


def _flops_of_row(config: PreTrainedConfig, length: int, lora: LoraConfig | None) -> float:
    """Operations of a training step for one row, activations computed twice."""
    from ddt.mllm.footprint import flops_per_token

    recomputed = flops_per_token(config, length) / 3  # a second forward pass
    return (flops_per_token(config, length, lora) + recomputed) * length


def _row_share(params: Params, length: int) -> float:
    """Rows that one sequence fills: its codes, its special tokens and some sixty ids of text."""
    return (params.train_tokenizer.model.num_tokens + 64) / length
