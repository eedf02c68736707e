"""Low-memory tuning: adapters of low rank beside frozen matrices, and the new rows of the vocabulary whole.

Gradients, moments and checkpoints are then only of what is trained. W + (alpha / rank) B A takes the place of
each matrix W inside the blocks (LoRA, arXiv 2106.09685, by the package peft); rows past the text ids have no
useful start that a low rank could lean on, so they are trained as they are. V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ddt.mllm.config import LoraConfig
from ddt.mllm.vocabulary import Vocabulary

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Rows(nn.Module):
    """The rows of an embedding or head: frozen ones, and after them those that are trained, in float32."""

    def __init__(self, weight_VD: Tensor, num_frozen: int) -> None:
        super().__init__()
        self.frozen_VD: Tensor
        self.register_buffer("frozen_VD", weight_VD.detach()[:num_frozen], persistent=False)
        self.new_VD = nn.Parameter(weight_VD.detach()[num_frozen:].float().clone())

    def whole(self) -> Tensor:
        return torch.cat([self.frozen_VD, self.new_VD.to(self.frozen_VD.dtype)])

    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Rows [B, L, D] of `ids_BL`, without making the whole weight."""
        count = len(self.frozen_VD)
        frozen_BLD = F.embedding(ids_BL.clamp(max=count - 1), self.frozen_VD)
        new_BLD = F.embedding((ids_BL - count).clamp(min=0), self.new_VD).to(frozen_BLD.dtype)
        return torch.where((ids_BL < count)[..., None], frozen_BLD, new_BLD)


class SplitLayer(nn.Module):
    """Takes the place of an embedding or head, whose `weight` it also offers; `original` comes back later."""

    def __init__(self, original: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self._original = (original,)  # in a tuple, so that it is not part of the model

    @property
    def weight(self) -> Tensor:
        return self.rows.whole()

    def restored(self) -> nn.Module:
        """The original layer with all rows as they are now."""
        (original,) = self._original
        original.weight = nn.Parameter(self.rows.whole())
        return original


class SplitEmbedding(SplitLayer):
    def forward(self, ids_BL: Tensor) -> Tensor:
        embedded_BLD = self.rows.lookup(ids_BL)
        scale: Any = getattr(self._original[0], "embed_scale", None)  # Gemma-2 multiplies by the root of D
        return embedded_BLD if scale is None else embedded_BLD * scale.to(embedded_BLD)


class SplitHead(SplitLayer):
    def forward(self, hidden_BLD: Tensor) -> Tensor:
        return F.linear(hidden_BLD, self.weight)


def check_peft() -> None:
    """ValueError where the package is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ValueError("lora: needs peft: pip install 'ddt-llama[peft]'") from None


def add_lora(model: PreTrainedModel, config: LoraConfig, vocabulary: Vocabulary, seed: int) -> None:
    """Freezes `model` in place but for new adapters, which change nothing yet, and rows past the text ids."""
    check_peft()
    import peft

    adapters = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=TARGETS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(adapters, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # the adapters: what is trained is float32 beside weights of any type
            parameter.data = parameter.data.float()
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    rows, tied = Rows(embedding.weight, vocabulary.text_size), model.config.tie_word_embeddings
    model.set_input_embeddings(SplitEmbedding(embedding, rows))
    model.set_output_embeddings(SplitHead(head, rows if tied else Rows(head.weight, vocabulary.text_size)))


@torch.no_grad()
def merge_lora(model: PreTrainedModel) -> None:
    """Adapters and rows into the weights, in place: an ordinary model of its class again, in float32."""
    from peft.tuners.lora import LoraLayer

    model.float()
    layers: Any = (model.get_input_embeddings(), model.get_output_embeddings())
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, module.get_base_layer())
    model.set_input_embeddings(layers[0].restored())
    model.set_output_embeddings(layers[1].restored())
    model.tie_weights()
    model.requires_grad_(True)
    del model.peft_config
