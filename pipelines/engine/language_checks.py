"""What is known to be wrong with a language model's training before anything is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddt.params import Params
    from ddt.sections.language_model import FinetuneParams, PretrainParams
    from ddt.sections.run import Resources

LANGUAGE_STAGES = ("pretrain", "finetune")


def check_language_model(params: Params) -> None:
    """ValueError where the language model can't be trained as `params` say, found before anything is made.

    Reads at most a checkpoint's config and tokenizer, and the text tokenizer, and only where they matter.
    """
    for stage in LANGUAGE_STAGES:
        _check_settings(stage, getattr(params, stage), params.resources)
    section, tensor = params.pretrain, params.resources.tensor_parallel
    if section.model is not None and tensor == 1:
        return  # a shape checks itself
    from ddt.data.refs import STORE_PREFIX, resolve
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

    if str(section.init).startswith(STORE_PREFIX):
        return  # a pipeline's own model: the workers read it, and check it before they train
    text = load_tokenizer(resolve(section.text_tokenizer))
    vocabulary = extend_tokenizer(text, params.train_tokenizer.image_tokenizer.codebook_size)
    if section.model is not None:
        config: Any = llama_config(section.model, vocabulary)
    else:
        init = resolve(str(section.init))
        config = load_config(init)
        if not (Path(init) / SETTINGS).is_file():  # else its codes matter too, which only the data tell
            with naming(f"pretrain.init = {section.init}: "):
                check_rows(config.vocab_size, vocabulary)
        if section.init != section.text_tokenizer:
            with naming("pretrain.init = "):
                check_text_tokenizer(init, text, vocabulary)
    with naming("resources."):
        check_tensor_parallel(config, tensor)
    for stage in LANGUAGE_STAGES:
        with naming(f"{stage}."):
            check_row_length(config, getattr(params, stage).row_length)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
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
