"""What pre-training and tuning share: the language model of a worker, whole or spread over all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine.training import Job

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ddt.mllm.config import LanguageModelConfig, LoraConfig, NewRowsKind
    from ddt.mllm.vocabulary import Vocabulary
    from ddt.params import Params
    from ddt.sections.language_model import FinetuneParams, PretrainParams
    from ddt.sections.run import Resources
    from ddt.train.config import FitConfig

LANGUAGE_STAGES = ("pretrain", "finetune")


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


def check_language_model(params: Params) -> None:
    """ValueError where the language model can't be trained as `params` say, found before anything is made.

    Reads at most a checkpoint's config and tokenizer, and the text tokenizer, and only where they matter.
    """
    for stage in LANGUAGE_STAGES:
        _check_settings(stage, getattr(params, stage), params.resources)
    section, tensor = params.pretrain, params.resources.tensor_parallel
    if section.model is not None and tensor == 1:
        return  # a shape checks itself
    from ddt.data.refs import resolve
    from ddt.mllm.build import (
        check_row_length,
        check_text_tokenizer,
        llama_config,
        load_config,
        load_tokenizer,
    )
    from ddt.mllm.folder import SETTINGS
    from ddt.mllm.parallel_plan import check_tensor_parallel
    from ddt.mllm.vocabulary import check_rows, extend_tokenizer

    text = load_tokenizer(resolve(section.text_tokenizer))
    vocabulary = extend_tokenizer(text, params.train_tokenizer.image_tokenizer.codebook_size)
    if section.model is not None:
        config: Any = llama_config(section.model, vocabulary)
    else:
        init = resolve(str(section.init))
        config = load_config(init)
        if not (Path(init) / SETTINGS).is_file():  # else its codes matter too, which only the data tell
            with _naming(f"pretrain.init = {section.init}: "):
                check_rows(config.vocab_size, vocabulary)
        if section.init != section.text_tokenizer:
            with _naming("pretrain.init = "):
                check_text_tokenizer(init, text, vocabulary)
    with _naming("resources."):
        check_tensor_parallel(config, tensor)
    for stage in LANGUAGE_STAGES:
        with _naming(f"{stage}."):
            check_row_length(config, getattr(params, stage).row_length)


def check_own_data(params: Params) -> None:
    """ValueError where files of text hold none, or tuning asks for data that no setting names."""
    from ddt.data.text import check_first_record
    from pipelines.finetune import KIND_OF_TASK, usable_mix
    from pipelines.pretrain import text_files

    for path in text_files(params.pretrain):
        with _naming("pretrain.text_source: "):
            check_first_record(path)
    has_chats, has_classes = params.ingest.conversations is not None, params.pretrain.class_conditional
    usable_mix(params.finetune.mix, set(KIND_OF_TASK.values()), has_chats, has_classes)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """ValueErrors of the library, which knows no sections, with the place in front."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _check_settings(stage: str, section: PretrainParams | FinetuneParams, resources: Resources) -> None:
    spread = resources.shard_weights or resources.tensor_parallel > 1
    if section.lora is not None:
        from ddt.mllm.lora import check_peft

        if spread:
            raise ValueError(
                f"{stage}.lora: frozen weights stay whole on every worker; "
                "expected resources.tensor_parallel = 1 and shard_weights = false"
            )
        check_peft()
    if spread and section.fit.optimizer == "muon":
        raise ValueError(f"{stage}.fit.optimizer = muon: wants whole matrices; expected adamw")
