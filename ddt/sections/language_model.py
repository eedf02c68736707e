"""The language model: pretrain, finetune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ddt.config import Count, Fraction, Range
from ddt.mllm.config import TASKS, LanguageModelConfig, LoraConfig, NewRowsKind, SamplingConfig, check_init
from ddt.train.config import FitConfig


@dataclass(frozen=True)
class PretrainParams:
    """Multimodal next-token training. `init`: a Hugging Face folder, or null for `model` from scratch.

    The rows that `init` lacks begin at the mean of its text rows, or `new_rows` draws them around it.
    `image_first_rate` is the share of pairs whose caption follows the picture: the paper's model sees that in
    tuning alone. Labels (`class_conditional`) come before their pictures always.
    `z_loss` weighs the square of each token's log-sum-exp, which keeps logits from drifting (0: off).
    `class_conditional` takes the native captions for names of classes and gives each a token of its own.
    `lora` freezes the checkpoint's weights and trains adapters beside them, and the new rows whole.
    """

    init: str | None
    new_rows: NewRowsKind
    text_tokenizer: str
    model: LanguageModelConfig | None
    row_length: Count
    long_caption_rate: Fraction
    caption_drop_rate: Fraction
    image_first_rate: Fraction
    text_rate: Fraction
    text_source: str | None
    class_conditional: bool
    z_loss: Annotated[float, Range(0)]
    lora: LoraConfig | None
    fit: FitConfig

    def __post_init__(self) -> None:
        check_init(self.init, self.model)
        if self.lora is not None and self.init is None:
            raise ValueError("lora: adapts a checkpoint; expected one in init")
        if self.model is not None and self.row_length > self.model.max_length:
            raise ValueError(
                f"row_length = {self.row_length}: expected at most model.max_length = {self.model.max_length}"
            )


@dataclass(frozen=True)
class FinetuneParams:
    """Instruction tuning; `mix` weighs the tasks text_to_image, edit, caption, vqa, chat and class_to_image.

    `lora` is as in pre-training. `sampling` is how the finished model draws and answers; it is saved with it.
    """

    row_length: Count
    mix: dict[str, Annotated[float, Range(0)]]
    long_caption_rate: Fraction
    caption_drop_rate: Fraction
    z_loss: Annotated[float, Range(0)]
    lora: LoraConfig | None
    fit: FitConfig
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        for task in self.mix:
            if task not in TASKS:
                raise ValueError(f"mix.{task}: unknown task; allowed here: {', '.join(TASKS)}")
