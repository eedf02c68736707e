"""What a run would do, and what a model was made from: `plan` and `trace`."""

from __future__ import annotations

import json
from pathlib import Path

from ddt.manifest import Manifest
from ddt.mllm.config import LanguageModelConfig
from ddt.params import Params
from pipelines.graph import INPUTS, STAGES
from pipelines.models import find_model
from pipelines.runner import is_finished, manifest_path, stage_context

# Published sizes of the paper's base models, for a plan where the checkpoint is not at hand.
BASE_MODELS = {
    "meta-llama/Meta-Llama-3-8B": (LanguageModelConfig(4096, 32, 32, 8, 14336, 8192, False), 128_256),
    "google/gemma-2-2b": (LanguageModelConfig(2304, 26, 8, 4, 9216, 8192, True), 256_000),
}


def print_plan(params: Params) -> None:
    """Stages with their state, then the models' sizes and what training them takes."""
    print(f"{'stage':16} {'state':12} reads")
    for stage in STAGES:
        print(
            f"{stage:16} {stage_state(params, stage):12} {', '.join(INPUTS[stage]) or params.ingest.source}"
        )
    print()
    for name, value in plan_sizes(params).items():
        print(f"{name:44} {value:>20,}")


def stage_state(params: Params, stage: str) -> str:
    """`done`, `stale` (made by other parameters, inputs or code), or `to do`."""
    workspace = Path(params.paths.workspace)
    if not all(manifest_path(workspace, name).is_file() for name in INPUTS[stage]):
        return "to do"
    if not manifest_path(workspace, stage).is_file():
        return "to do"
    return "done" if is_finished(stage_context(stage, params)) else "stale"


def plan_sizes(params: Params) -> dict[str, int]:
    """Parameters, tokens and samples of the run; models are built on the meta device only."""
    import torch

    from ddt.tokenizer.model import DDTTokenizer

    tokenizer, model = params.train_tokenizer, params.pretrain
    with torch.device("meta"):
        parts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in DDTTokenizer(tokenizer.model).named_children()
        }
    config = tokenizer.model
    sizes = {f"tokenizer {name} parameters": count for name, count in parts.items() if count}
    sizes |= {
        "tokenizer parameters": sum(parts.values()),
        "tokens per image": config.num_tokens,
        "codebook size": config.codebook_size,
        "bits per image": config.bits_per_image,
        "tokenizer training images": tokenizer.fit.steps * tokenizer.fit.global_batch,
    }
    shape, text_size = language_model_shape(params)
    vocabulary = text_size + config.codebook_size + 2
    sizes |= {
        "vocabulary": vocabulary,
        "language model parameters": language_model_parameters(shape, vocabulary),
        "pre-training sequences": model.fit.steps * model.fit.global_batch,
        "instruction tuning sequences": params.finetune.fit.steps * params.finetune.fit.global_batch,
        "pairs kept": params.select.keep,
        "token shard bytes": 2 * params.select.keep * config.num_tokens,
    }
    return sizes


def language_model_shape(params: Params) -> tuple[LanguageModelConfig, int]:
    """Sizes of the language model and the number of its text ids."""
    model = params.pretrain
    if model.model is not None:
        from ddt.data.refs import resolve
        from ddt.mllm.build import load_tokenizer

        return model.model, len(load_tokenizer(resolve(model.text_tokenizer)))
    if model.init in BASE_MODELS:
        return BASE_MODELS[model.init]
    from transformers import AutoConfig

    assert model.init is not None  # exactly one of init and model is set

    try:
        found = AutoConfig.from_pretrained(model.init, trust_remote_code=False)
    except OSError:
        raise ValueError(
            f"pretrain.init = {model.init}: no such folder, and its size is not known here "
            f"(known: {', '.join(BASE_MODELS)})"
        ) from None
    shape = LanguageModelConfig(
        found.hidden_size,
        found.num_hidden_layers,
        found.num_attention_heads,
        found.num_key_value_heads,
        found.intermediate_size,
        found.max_position_embeddings,
        found.tie_word_embeddings,
    )
    return shape, found.vocab_size


def language_model_parameters(shape: LanguageModelConfig, vocabulary: int) -> int:
    """Parameters of a Llama-class decoder over `vocabulary` ids, in closed form."""
    head = shape.width // shape.heads
    attention = 2 * shape.width * shape.heads * head + 2 * shape.width * shape.kv_heads * head
    block = attention + 3 * shape.width * shape.mlp_width + 2 * shape.width
    embeddings = vocabulary * shape.width * (1 if shape.tie_embeddings else 2)
    return shape.layers * block + embeddings + shape.width


def print_trace(params: Params, reference: str) -> None:
    """The manifests a model goes back to, from the model to the source shards."""
    folder = find_model(reference, params)
    made_from = folder / "made_from.json"
    if made_from.is_file():
        for name, digest in sorted(json.loads(made_from.read_text()).items()):
            print(f"{'model':16} {name} {digest}")
    workspace = Path(params.paths.workspace)
    for stage in reversed(STAGES):
        path = manifest_path(workspace, stage)
        if path.is_file():
            manifest = Manifest.load(path)
            inputs = ", ".join(f"{k} {v[:16]}" for k, v in manifest.inputs.items()) or "source shards"
            print(f"{stage:16} {manifest.digest[:16]}  {manifest.rows:>10,} rows  from {inputs}")
