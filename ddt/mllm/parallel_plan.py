"""How the layers of a Llama- or Gemma-2-class model are split over processes (tensor parallelism).

Attention by heads, MLPs by inner units, embedding and head by rows of the vocabulary; norms are whole.
Two all-reduces a block, as in Megatron, which the paper trained with at TP = 8.
B sequences, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from transformers import PreTrainedConfig, PreTrainedModel

from ddt.mllm.cross_entropy import vocabulary_part


def check_tensor_parallel(config: PreTrainedConfig, tensor: int) -> None:
    """ValueError where heads or inner units can't be split evenly over `tensor` processes."""
    sizes = {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
    }
    for name, size in sizes.items():
        if size % tensor:
            raise ValueError(f"tensor_parallel = {tensor}: expected a divisor of the model's {name} = {size}")


def tensor_plan(config: PreTrainedConfig) -> dict[str, ParallelStyle]:
    """Module name -> how it is split. Llama's and Gemma-2's layers have the same parts, norms apart."""
    plan: dict[str, ParallelStyle] = {
        "model.embed_tokens": VocabularyParallel(),
        # Taken in once for q, k and v (for gate and up): their gradients then need one all-reduce, not three.
        "model.layers.*.self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": Replicate()},
            desired_input_kwarg_layouts={"hidden_states": Replicate()},
        ),
        "model.layers.*.mlp": PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),)
        ),
        "model.layers.*.self_attn.o_proj": RowwiseParallel(),
        "model.layers.*.mlp.down_proj": RowwiseParallel(),
    }
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        plan[f"model.layers.*.{name}"] = ColwiseParallel()
    if not config.tie_word_embeddings:
        plan["lm_head"] = ColwiseParallel()
    return plan


def split_layers(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Splits `model` in place over a one-dimensional mesh; its parameters may be on the meta device."""
    check_tensor_parallel(model.config, mesh.size())
    parallelize_module(model, mesh, tensor_plan(model.config))
    model.tie_weights()


class VocabularyParallel(ParallelStyle):
    """An embedding split by rows: each process looks up the ids it has, a sum makes the rest.

    torch's RowwiseParallel does the same with a gradient of all rows on every process: 3.2 GB at 8B.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Embedding)
        weight = distribute_tensor(module.weight, device_mesh, [Shard(0)])
        module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)

        def forward(ids_BL: Tensor) -> Tensor:
            embedded_BLD = split_lookup(ids_BL, module.weight)
            scale: Any = getattr(module, "embed_scale", None)  # Gemma-2 multiplies by the root of D
            return embedded_BLD if scale is None else embedded_BLD * scale.to(embedded_BLD.dtype)

        module.forward = forward  # type: ignore[method-assign,assignment]
        return module


def split_lookup(ids_BL: Tensor, weight_VD: Tensor) -> Tensor:
    """Rows of a DTensor split by rows over a one-dimensional mesh, whole on every process: [B, L, D]."""
    assert isinstance(weight_VD, DTensor)
    part = vocabulary_part(weight_VD)
    ids_BL = ids_BL - part.first
    here_BL = (ids_BL >= 0) & (ids_BL < part.rows)
    found_BLD = F.embedding(ids_BL.clamp(0, part.rows - 1), weight_VD.to_local()) * here_BL[..., None]
    summed = DTensor.from_local(found_BLD, weight_VD.device_mesh, [Partial()], run_check=False)
    return summed.redistribute(placements=[Replicate()]).to_local()
