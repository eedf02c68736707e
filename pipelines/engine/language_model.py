"""What pre-training and tuning share: the language model of a worker, whole or spread over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt.manifest import Manifest
from pipelines.engine.training import Job

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ddt.data.tokens import ShardFacts
    from ddt.mllm.config import LanguageModelConfig, LoraConfig, NewRowsKind
    from ddt.mllm.vocabulary import Vocabulary
    from ddt.sections.run import Resources
    from ddt.train.config import FitConfig


class LanguageModelJob(Job):
    """A job whose model `resources` may spread: tensor_parallel, shard_weights, checkpoint_activations."""

    @property
    def spread(self) -> bool:
        """Whether the model's weights are spread over the workers."""
        return self.resources.shard_weights or self.resources.tensor_parallel > 1

    @staticmethod
    def shares(workers: int, fit: FitConfig, resources: Resources) -> bool:
        """Whether so many workers can share the training: rows are padded to any number of slices."""
        return workers % resources.tensor_parallel == 0

    def from_scratch(
        self,
        config: LanguageModelConfig,
        vocabulary: Vocabulary,
        codebook_Kd: Tensor,
        z_loss: float,
        fit: FitConfig,
    ) -> tuple[PreTrainedModel, Any]:
        """A new model and its loss. Every worker draws the same weights before it keeps its shards."""
        from ddt.mllm.build import new_model
        from ddt.mllm.loss import LanguageModelLoss
        from ddt.mllm.sharding import shard_model
        from ddt.train.parallel import make_mesh
        from ddt.train.precision import has_bf16

        loss: Any = LanguageModelLoss(vocabulary, z_loss)
        model = new_model(config, vocabulary, fit.seed, codebook_Kd)
        model.to(self.device)  # type: ignore[arg-type]
        if self.spread:
            mesh = make_mesh(self.device, self.resources.tensor_parallel)
            loss = shard_model(model, loss, mesh, fit.bf16 and has_bf16(self.device))
        return self._recomputing(model), loss

    def from_checkpoint(
        self,
        path: str | Path,
        vocabulary: Vocabulary,
        z_loss: float,
        lora: LoraConfig | None,
        fit: FitConfig,
        new_rows: NewRowsKind = "mean",
    ) -> tuple[PreTrainedModel, Any]:
        """A checkpoint's model, extended to `vocabulary` by `new_rows` where it is smaller, and its loss.

        With `lora` its own weights are frozen, and on an accelerator in bfloat16 where training is.
        """
        import torch

        from ddt.mllm.build import load_extended
        from ddt.mllm.lora import add_lora
        from ddt.mllm.loss import LanguageModelLoss
        from ddt.mllm.new_rows import NewRows
        from ddt.mllm.sharding import load_sharded
        from ddt.train.parallel import make_mesh
        from ddt.train.precision import has_bf16

        loss: Any = LanguageModelLoss(vocabulary, z_loss)
        rows = NewRows(new_rows, fit.seed)
        if self.spread:
            mesh = make_mesh(self.device, self.resources.tensor_parallel)
            bf16 = fit.bf16 and has_bf16(self.device)
            model, loss = load_sharded(path, vocabulary, loss, mesh, bf16, rows)
        else:
            half = lora is not None and self.device.type == "cuda" and fit.bf16
            dtype = torch.bfloat16 if half else torch.float32
            model = load_extended(path, vocabulary, rows, self.device, dtype)
            if lora is not None:
                add_lora(model, lora, vocabulary, fit.seed)
        return self._recomputing(model), loss

    def _recomputing(self, model: PreTrainedModel) -> PreTrainedModel:
        if self.resources.checkpoint_activations:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model


def token_shards(manifest: Manifest, role: str) -> list[ShardFacts]:
    """The token shards of a role of records, in manifest order, by what their commits say."""
    from ddt.data.tokens import ShardFacts

    made = [c for c in manifest.commits if c.stats["role"] == role and c.rows]
    return [ShardFacts.from_stats(c.key, c.rows, c.stats) for c in made]
