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

from ddt.mllm.config import LoraConfig
from ddt.mllm.cross_entropy import CHUNK_LOGITS
from ddt.mllm.lora import add_lora
from ddt.mllm.vocabulary import Vocabulary

FUSED = "footprint_fused"
FEW_IDS = Vocabulary(4, 2, 0, 1, 1)  # of a model whose vocabulary does not matter


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
class Tuning:
    """Low-memory tuning: adapters, and the last `new_rows` of the vocabulary; the rest is frozen."""

    lora: LoraConfig
    new_rows: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process at the peak of a step, by what they are for.

    The peak is with the loss, where all activations are alive and no gradient of a weight is; with the last
    layer, which is then computed again; or with the first, where gradients have taken activations' place.
    """

    states: int  # weights that the process owns, both moments of those that are trained, gradients by then
    gathered: int  # weights of others, and gradients before they are given away
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.gathered + self.activations + self.loss


def footprint(
    config: PreTrainedConfig,
    layout: Layout,
    rows: int,
    row_length: int,
    bf16: bool,
    fused: bool,
    tuning: Tuning | None = None,
) -> Footprint:
    """Of a step on `rows` x `row_length` tokens at once. `fused`: attention that keeps no L x L scores.

    With `tuning`, whose weights are whole on every process, frozen weights are in bfloat16 where `bf16` is.
    """
    assert tuning is None or (not layout.spread and layout.tensor == 1)
    block, outside = parameter_counts(config)
    whole = config.num_hidden_layers * block + outside
    block, outside = block // layout.tensor, outside // layout.tensor
    mine = (config.num_hidden_layers * block + outside) // (layout.data if layout.spread else 1)
    computed = 2 if bf16 else 4
    trained, weights = mine, 4 * mine
    if tuning is not None:
        trained = trained_parameters(config, tuning)
        weights = computed * whole + 4 * trained
    if layout.spread:
        # Two blocks at once: the next is gathered while one computes.
        gathered = (outside + 2 * block) * 2 * computed
    else:
        # Copies in bfloat16 that autocast makes; the buckets in which DDP averages.
        bucketed = trained if tuning is not None else whole
        gathered = (2 * bucketed if bf16 else 0) + (4 * bucketed if layout.data > 1 else 0)
    tokens = rows * row_length
    kept = computed if layout.spread or tuning else 4
    dtype = torch.bfloat16 if kept == 2 else torch.float32
    fixed, layer = saved_bytes(config, layout.tensor, rows, row_length, dtype, fused, tuning)
    hidden = tokens * config.hidden_size * kept
    kept_layers = config.num_hidden_layers * (hidden if layout.recompute else layer)
    head = config.vocab_size * config.hidden_size // layout.tensor
    loss = hidden + _loss_bytes(config, layout, tokens, head, bf16, tuning is not None)
    held = weights + 8 * trained  # and both moments; gradients come as activations go
    head_gradient = 4 * (head if tuning is None else tuning.new_rows * config.hidden_size)
    # A layer's backward pass begins with its MLP: three gradients of the inner width beside all it kept.
    inner = 3 * tokens * kept * config.intermediate_size // layout.tensor
    phases = (
        Footprint(held, gathered, fixed + kept_layers, loss),
        Footprint(
            held + (0 if layout.spread else head_gradient),
            gathered,
            fixed + kept_layers + (layer if layout.recompute else 0) + inner,
            hidden,
        ),
        Footprint(held + 4 * trained, gathered, fixed + layer + inner, 0),
    )
    return max(phases, key=lambda phase: phase.total)


def _loss_bytes(
    config: PreTrainedConfig, layout: Layout, tokens: int, head: int, bf16: bool, tuned: bool
) -> int:
    """Of the chunked cross-entropy: the head's gradient and what else is alive with it."""
    computed = 2 if bf16 else 4
    chunk = min(CHUNK_LOGITS, tokens * config.vocab_size // layout.tensor)
    # Logits in float32 and their gradient for products; with a softcap also its value and its slope.
    logits = chunk * (4 + (2 if bf16 else 0) + (8 if getattr(config, "final_logit_softcapping", None) else 0))
    # The head as products take it (frozen and new rows are put together for that), and a chunk's part of its
    # gradient; later, the gradient scaled and, of frozen rows, in their own type.
    copied = computed * head if bf16 or tuned else 0
    scaled = 4 * head + (2 * head if bf16 and tuned else 0)
    return 4 * head + max(copied + computed * head + logits, scaled)


def parameter_counts(config: PreTrainedConfig) -> tuple[int, int]:
    """Parameters of one block, and of all that is outside the blocks."""
    bare = _part(config, 1)
    bare.vocab_size = config.vocab_size
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(bare)
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    return block, sum(p.numel() for p in model.parameters()) - block


def trained_parameters(config: PreTrainedConfig, tuning: Tuning) -> int:
    """Parameters of the adapters and of the new rows."""
    tables = 1 if config.tie_word_embeddings else 2
    return adapter_parameters(config, tuning.lora) + tables * tuning.new_rows * config.hidden_size


def adapter_parameters(config: PreTrainedConfig, lora: LoraConfig) -> int:
    """Parameters of the adapters in all blocks."""
    bare = _part(config, 1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(bare)
        add_lora(model, lora, FEW_IDS, seed=0)
    trained = [p.numel() for p in model.model.layers[0].parameters() if p.requires_grad]
    return config.num_hidden_layers * sum(trained)


def flops_per_token(config: PreTrainedConfig, row_length: int, lora: LoraConfig | None = None) -> int:
    """Multiplications and additions of a training step, forward and backward, for each token of a full row.

    6 for every weight of a matrix product (the embedding's lookup is none) and 12 L x width of attention.
    With `lora` 4 for the blocks' own weights, which need no gradient, and 6 for the adapters'.
    """
    block, outside = parameter_counts(config)
    tied = config.tie_word_embeddings
    blocks = config.num_hidden_layers * block
    head = outside if tied else outside - config.vocab_size * config.hidden_size
    attention = config.num_hidden_layers * config.num_attention_heads * _head_dim(config) * row_length
    if lora is not None:
        return 4 * blocks + 6 * (adapter_parameters(config, lora) + head) + 12 * attention
    return 6 * (blocks + head) + 12 * attention


def saved_bytes(
    config: PreTrainedConfig,
    tensor: int,
    rows: int,
    row_length: int,
    dtype: torch.dtype,
    fused: bool,
    tuning: Tuning | None = None,
) -> tuple[int, int]:
    """What autograd keeps of a forward pass: outside the layers, and for each layer."""
    one, two = (_saved(config, count, tensor, rows, row_length, dtype, fused, tuning) for count in (1, 2))
    return 2 * one - two, two - one


def _saved(
    config: PreTrainedConfig,
    layers: int,
    tensor: int,
    rows: int,
    row_length: int,
    dtype: torch.dtype,
    fused: bool,
    tuning: Tuning | None,
) -> int:
    part = _part(config, layers)
    part.head_dim = _head_dim(config)
    part.num_attention_heads //= tensor
    part.num_key_value_heads //= tensor
    part.intermediate_size //= tensor
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            part, dtype=dtype, attn_implementation=FUSED if fused else "eager"
        )
        if tuning is not None:
            add_lora(model, tuning.lora, FEW_IDS, seed=0)
            _cast_for_adapters(model, dtype)
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


def _part(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The config of a model of fewer layers and a vocabulary of `FEW_IDS`."""
    part = copy.deepcopy(config)
    part.num_hidden_layers, part.vocab_size, part.pad_token_id = layers, FEW_IDS.size, None
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[:layers]
    return part


def _cast_for_adapters(model: Any, dtype: torch.dtype) -> None:
    """In half precision each adapter keeps a cast of its input of its own, as it does under autocast."""
    if dtype == torch.float32:
        return
    model.to(dtype)
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))


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
