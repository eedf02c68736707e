"""A language model and its tokenizer, ready for both modalities: small from scratch, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ddt.mllm.config import LanguageModelConfig
from ddt.mllm.new_rows import NewRows
from ddt.mllm.vocabulary import Vocabulary, embedding_rows, extend_embeddings
from ddt.weights import check_safetensors, why_not_loaded

MODEL_TYPES = ("llama", "gemma2")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def attention_kind(device: torch.device | str, config: PreTrainedConfig) -> str:
    """Plain matrix products on CPU: a bf16 training step on rows of 128 took 0.55 s, fused 1.67 s.

    Also for Gemma-2, whose bound on the scores torch's fused attention does not know.
    """
    bounded = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if bounded or torch.device(device).type == "cpu" else "sdpa"


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or hub id; ValueError in one line where there is none."""
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"text tokenizer {path}: can't be loaded ({why_not_loaded(error)})") from None


def check_text_tokenizer(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    """ValueError where a checkpoint has a tokenizer of its own that gives text other ids than `tokenizer`.

    Nothing else tells: a model has rows for the ids of any smaller vocabulary. Ids past the text are not
    looked at, nor a checkpoint without a tokenizer.
    """
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return
    try:
        own = load_tokenizer(path)
    except ValueError:
        return
    known = tokenizer.get_vocab()
    for token, index in sorted(own.get_vocab().items(), key=lambda item: item[1]):
        if index < vocabulary.text_size and known.get(token) != index:
            found = f"id {known[token]}" if token in known else "no such token"
            raise ValueError(
                f"{path}: its own tokenizer has {token!r} as id {index}, the text tokenizer {found}; "
                "they do not belong together"
            )


def llama_config(config: LanguageModelConfig, vocabulary: Vocabulary) -> LlamaConfig:
    """The Hugging Face config of a from-scratch model."""
    return LlamaConfig(
        vocab_size=vocabulary.size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        pad_token_id=vocabulary.pad,
        initializer_range=config.width**-0.5 * 0.5,
    )


def new_model(
    config: LanguageModelConfig, vocabulary: Vocabulary, seed: int, codebook_Kd: Tensor | None = None
) -> PreTrainedModel:
    """A randomly initialised LlamaForCausalLM in float32; the global random state is left as it was.

    `codebook_Kd`, the image tokenizer's unit code vectors, makes codes that are near each other start near
    each other: their rows are a random projection of them, of the spread that rows have anyway.
    """
    llama = llama_config(config, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            llama, attn_implementation=attention_kind("cpu", llama), dtype=torch.float32
        )
        if codebook_Kd is not None:
            _start_at_codes(model, vocabulary, codebook_Kd)
    return model


@torch.no_grad()
def _start_at_codes(model: PreTrainedModel, vocabulary: Vocabulary, codebook_Kd: Tensor) -> None:
    layers = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    for layer in layers:
        weight_VD = layer.weight
        assert isinstance(weight_VD, Tensor)
        rows_KD = codebook_Kd @ torch.randn(codebook_Kd.shape[1], weight_VD.shape[1])
        # A tenth of the variance stays as drawn: equal codes would never part.
        start_KD = 0.95 * rows_KD / rows_KD.std() * weight_VD.std() + 0.31 * weight_VD[vocabulary.visual]
        weight_VD[vocabulary.visual] = start_KD


def load_model(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A Llama- or Gemma-2-class causal language model from a local folder or hub id.

    Raises ValueError for another model class, or a folder that holds none, before weights are read.
    """
    config = load_config(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attention_kind(device, config),
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # cut, or of other sizes
        raise ValueError(f"language model {path}: can't be loaded ({why_not_loaded(error)})") from None
    return model.to(torch.device(device))  # type: ignore[arg-type]


def load_config(path: str | Path) -> PreTrainedConfig:
    """The config of a Llama- or Gemma-2-class checkpoint.

    ValueError for another class or for none, and where a folder's weights are not safetensors.
    """
    check_safetensors(f"language model {path}", path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if config.model_type not in MODEL_TYPES:
            raise ValueError(f"its type is {config.model_type!r}; supported: {', '.join(MODEL_TYPES)}")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"language model {path}: can't be loaded ({why_not_loaded(error)})") from None
    return config


def load_extended(
    path: str | Path,
    vocabulary: Vocabulary,
    new_rows: NewRows | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A checkpoint's model with rows for all ids of `vocabulary`; those it lacks begin as `new_rows` says."""
    model = load_model(path, device, dtype)
    if embedding_rows(model) != vocabulary.size:
        extend_embeddings(model, vocabulary, new_rows)
    return model


def check_row_length(config: PreTrainedConfig, row_length: int) -> None:
    """Rows must fit the model's positions and, where it has one, its attention window (ValueError)."""
    limits = {"max_position_embeddings": config.max_position_embeddings}
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        limits["sliding_window"] = config.sliding_window
    for name, limit in limits.items():
        if limit is not None and row_length > limit:
            raise ValueError(f"row_length = {row_length}: expected at most the model's {name} = {limit}")
