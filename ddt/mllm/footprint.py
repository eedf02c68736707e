"""Memory and arithmetic of training a language model, by parallel layout, computed without running it.

Parameters are counted on the meta device, activations by running one and two layers there and noting what
autograd keeps. R rows, L tokens in a row, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig

from ddt.mllm.cross_entropy import CHUNK_LOGITS

FUSED = "footprint_fused"


@dataclass(frozen=True)
class Layout:
    """`workers` processes, of which `tensor` share each layer; `spread`: weights sharded over the others."""

    workers: int
    tensor: int
    spread: bool
    recompute: bool

    @property
    def data(self) -> int:
        """Processes that take different samples."""
        return self.workers // self.tensor


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process at the peak of a step, by what they are for."""

    states: int  # weights, gradients and both moments that the process owns
    gathered: int  # weights of others, and gradients before they are given away
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.gathered + self.activations + self.loss


def footprint(
    config: PreTrainedConfig, layout: Layout, rows: int, row_length: int, bf16: bool, fused: bool
) -> Footprint:
    """Of a step on `rows` x `row_length` tokens at once. `fused`: attention that keeps no L x L scores."""
    block, outside = parameter_counts(config)
    whole = config.num_hidden_layers * block + outside
    block, outside = block // layout.tensor, outside // layout.tensor
    mine = (config.num_hidden_layers * block + outside) // (layout.data if layout.spread else 1)
    computed = 2 if bf16 else 4
    if layout.spread:
        # Two blocks at once: the next is gathered while one computes.
        gathered = (outside + 2 * block) * 2 * computed
    else:
        # Copies in bfloat16 that autocast makes; the buckets in which DDP averages.
        gathered = (2 * whole if bf16 else 0) + (4 * whole if layout.data > 1 else 0)
    tokens = rows * row_length
    width = config.hidden_size
    kept = computed if layout.spread else 4
    dtype = torch.bfloat16 if kept == 2 else torch.float32
    fixed, layer = saved_bytes(config, layout.tensor, rows, row_length, dtype, fused)
    hidden = tokens * width * kept
    kept_layers = config.num_hidden_layers * (hidden if layout.recompute else layer)
    # In its backward pass one layer has all it kept, and gradients as large beside it.
    working = 2 * layer if layout.recompute else layer
    head = config.vocab_size * width // layout.tensor
    chunk = min(CHUNK_LOGITS, tokens * config.vocab_size // layout.tensor)
    # Gradients of hidden states and head, the head for products; logits, their exponentials, their gradient.
    loss = hidden + 4 * head + (computed * head if bf16 else 0) + chunk * (4 + 4 + computed)
    return Footprint(16 * mine, gathered, fixed + kept_layers + working, loss)


def parameter_counts(config: PreTrainedConfig) -> tuple[int, int]:
    """Parameters of one block, and of all that is outside the blocks."""
    bare = copy.deepcopy(config)
    bare.num_hidden_layers = 1
    if getattr(bare, "layer_types", None):
        bare.layer_types = bare.layer_types[:1]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(bare)
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    return block, sum(p.numel() for p in model.parameters()) - block


def flops_per_token(config: PreTrainedConfig, row_length: int) -> int:
    """Multiplications and additions of a training step, forward and backward, for each token of a full row.

    6 for every weight of a matrix product (the embedding's lookup is none) and 12 L x width of attention.
    """
    block, outside = parameter_counts(config)
    tied = config.tie_word_embeddings
    products = config.num_hidden_layers * block + (
        outside if tied else outside - config.vocab_size * config.hidden_size
    )
    attention = config.num_hidden_layers * config.num_attention_heads * _head_dim(config) * row_length
    return 6 * products + 12 * attention


def saved_bytes(
    config: PreTrainedConfig, tensor: int, rows: int, row_length: int, dtype: torch.dtype, fused: bool
) -> tuple[int, int]:
    """What autograd keeps of a forward pass: outside the layers, and for each layer."""
    one, two = (_saved(config, count, tensor, rows, row_length, dtype, fused) for count in (1, 2))
    return 2 * one - two, two - one


def _saved(
    config: PreTrainedConfig,
    layers: int,
    tensor: int,
    rows: int,
    row_length: int,
    dtype: torch.dtype,
    fused: bool,
) -> int:
    part = copy.deepcopy(config)
    part.num_hidden_layers, part.vocab_size, part.pad_token_id = layers, 8, None
    part.head_dim = _head_dim(config)
    part.num_attention_heads //= tensor
    part.num_key_value_heads //= tensor
    part.intermediate_size //= tensor
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[:layers]
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            part, dtype=dtype, attn_implementation=FUSED if fused else "eager"
        )
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        ids_RL = torch.zeros(rows, row_length, dtype=torch.long)
        mask: Any = torch.zeros(rows, 1, row_length, row_length, dtype=dtype)
        kinds = set(getattr(part, "layer_types", None) or [])
        masks = dict.fromkeys(kinds, mask) if kinds else mask
        storages: dict[int, int] = {}
        held: list[Any] = []

        def note(saved: Tensor) -> Tensor:
            storage = saved.untyped_storage()
            if storage._cdata not in own:
                storages[storage._cdata] = storage.nbytes()
                held.append(storage)  # its address must not be given to another
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            output = model.model(input_ids=ids_RL, attention_mask=masks, position_ids=ids_RL, use_cache=False)
    del output
    return sum(storages.values())


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output and one number a query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(
            query, key, value, output, query.new_empty(query.shape[:3], dtype=torch.float32)
        )
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise NotImplementedError("counts only what a forward pass keeps")


def _fused(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2), None


AttentionInterface.register(FUSED, _fused)
