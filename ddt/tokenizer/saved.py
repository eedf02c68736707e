"""What the tokenizer, its renderer and the baselines share: a model that lives in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import nn

from ddt.hub import local_folder
from ddt.tokenizer import folder
from ddt.tokenizer.card import model_card

C = TypeVar("C")


class SavedModel(nn.Module, Generic[C]):
    """A model that is built from its config alone. Subclasses say what kind of folder is theirs."""

    model_type: ClassVar[str]  # how config.json names it
    config_class: ClassVar[type[Any]]
    title: ClassVar[str]
    tags: ClassVar[list[str]]
    summary: ClassVar[str]
    usage: ClassVar[str]  # Python, for the model card

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def digest(self) -> str:
        """Hex sha256 over configuration and weights: what is made with a model names it by this."""
        return folder.digest(self.config, self.state_dict())

    def facts(self) -> dict[str, object]:
        """Rows of the model card that the model knows by itself."""
        raise NotImplementedError

    def save_pretrained(
        self,
        path: str | Path,
        made_from: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Writes model.safetensors, config.json (with `digest`, `made_from`), README.md, then `_COMPLETE`.

        `metrics` are numbers for the model card in README.md; they are no part of the digest.
        """
        made_from = made_from or {}
        facts = self.facts() | {"digest": self.digest}
        card = model_card(self.title, self.tags, self.summary, self.usage, facts, metrics or {}, made_from)
        folder.save(Path(path), self.model_type, self.config, self.state_dict(), made_from, card)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The model saved in a folder or under a hub id `owner/name`, in eval mode, bit for bit.

        Raises ValueError for a folder that is missing, incomplete, damaged, of another kind or version.
        """
        config, tensors = folder.load(local_folder(path), cls.model_type, cls.config_class)
        model = cls(config)
        model.load_state_dict(tensors)
        return model.eval()
