"""Which models score a run, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ddt.data.clip_score import ClipScorer
from ddt.data.refs import model_digest
from ddt.eval.scorers.blip import BlipVQA
from ddt.eval.scorers.detector import Detector, open_detector
from ddt.eval.scorers.inception import Inception
from ddt.eval.scorers.lpips import LPIPS
from ddt.eval.scorers.phrases import Phrases, open_phrases
from ddt.eval.scorers.vae import VAE

T = TypeVar("T")
KINDS = ("clip", "clip_b32", "blip", "detector", "phrases", "lpips", "inception", "vae")
PRECOMPUTED = ("detections", "verdicts", "attribute", "spatial", "action", "phrases")


class Scorers:
    """`models` maps a kind of KINDS to a folder or hub id, `precomputed` one of PRECOMPUTED to a JSON file.

    A benchmark names the checkpoint its authors use, which is taken where none was given. `used` tells
    afterwards what scored.
    """

    def __init__(
        self,
        models: Mapping[str, str] | None = None,
        precomputed: Mapping[str, Path] | None = None,
        device: str | None = None,
    ) -> None:
        self.models, self.precomputed, self.device = dict(models or {}), dict(precomputed or {}), device
        for given, allowed in ((self.models, KINDS), (self.precomputed, PRECOMPUTED)):
            for kind in given:
                if kind not in allowed:
                    raise ValueError(f"scorers: unknown kind {kind!r}, allowed are {', '.join(allowed)}")
        self.used: dict[str, str] = {}
        self._loaded: dict[tuple[str, str], Any] = {}
        self._found: dict[tuple[str, ...], Any] = {}

    def clip(self, default: str, kind: str = "clip") -> ClipScorer:
        """A CLIP for cosines between pictures, or a picture and a text; `kind` is it, or a second one."""
        return self._model(kind, default, ClipScorer)

    def blip(self, default: str) -> BlipVQA:
        """A BLIP-VQA for P(yes)."""
        return self._model("blip", default, BlipVQA)

    def detector(self, default: str) -> Detector:
        """A detector: Mask2Former, or an open-vocabulary one."""
        return self._model("detector", default, open_detector)

    def lpips(self) -> LPIPS:
        """LPIPS; its weights have no published folder, so there is no default."""
        if "lpips" not in self.models:
            raise ValueError("lpips: needs --scorer lpips=FOLDER with its backbone and heads")
        return self._model("lpips", self.models["lpips"], LPIPS)

    def inception(self) -> Inception:
        """FID's network; like LPIPS it has no published folder."""
        if "inception" not in self.models:
            raise ValueError("inception: needs --scorer inception=FOLDER with inception.safetensors")
        return self._model("inception", self.models["inception"], Inception)

    def vae(self) -> VAE | None:
        """The VAE whose round trip is the ceiling of a tokenizer of its latents, where one was given."""
        return self._model("vae", self.models["vae"], VAE) if "vae" in self.models else None

    def phrases(self, default: str) -> Phrases:
        """Tokens and noun chunks of prompts, from a file where one was given, else by spaCy."""
        path = self.file("phrases")
        return self._model("phrases", str(path or default), lambda name, _: open_phrases(name))

    def file(self, kind: str) -> Path | None:
        """The precomputed results of a kind, where they were given."""
        path = self.precomputed.get(kind)
        if path is not None:
            self.used[kind] = str(path)
        return path

    def once(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """What `make` returns; made once for each key, which names the benchmark's part and the output."""
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    def _model(self, kind: str, default: str, load: Any) -> Any:
        name = self.models.get(kind, default)
        key = (kind, name)
        if key not in self._loaded:
            self._loaded[key] = load(name, self.device)
            self.used[kind] = f"{name} ({model_digest(name)})" if Path(name).is_dir() else name
        return self._loaded[key]
