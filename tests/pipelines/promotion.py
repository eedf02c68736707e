"""The stage `promote` alone: models in a store, an evaluation as it would be left for it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ddt.eval.benchmark import Score
from ddt.manifest import Commit, Manifest
from ddt.params import Params, load_params
from ddt.sections.quality import PromoteParams
from ddt.store import FolderStore, mark_complete
from pipelines.engine.runner import StageContext
from pipelines.reports.report import SCORES
from pipelines.reports.workspace import manifest_path
from pipelines.services.models import publish_model

ROOT = Path(__file__).resolve().parents[2]
PSNR = "reconstruct/psnr"
GATE = PromoteParams({}, {PSNR: 21.0}, {}, {PSNR: 0.5})


class Promotion:
    """Promotions into one registry from one store; each model is known by a word."""

    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        made = load_params(ROOT / "params.yaml", None, [f"tracking.uri={uri}", f"paths.store={folder}/store"])
        names = {"model_name": name, "tokenizer_name": f"{name}-tokenizer"}
        self.params: Params = replace(made, tracking=replace(made.tracking, **names), promote=GATE)

    def context(self, word: str, psnr: float = 25.0, model: Path | None = None) -> StageContext:
        """What the stage gets for a model that was evaluated at `psnr` dB; `model` is its folder."""
        workspace = self.folder / f"workspace-{word}"
        made = {"train_tokenizer": model / "image_tokenizer" if model else None, "finetune": model}
        inputs = {stage: self._published(stage, word, folder) for stage, folder in made.items()}
        score = Score(psnr, psnr - 0.1, psnr + 0.1, 100, floor=15.0, floor_is="grey").to_dict()
        rows, scores = (row(f"{word} {psnr}"),), {SCORES: {PSNR: score}}
        inputs["evaluate"] = Manifest("evaluate", digest(f"{psnr}"), {}, rows, scores)
        for stage, manifest in inputs.items():
            manifest.save(manifest_path(workspace, stage))
        params = replace(self.params, paths=replace(self.params.paths, workspace=str(workspace)))
        decided_on = digest(f"{word} {psnr}")
        return StageContext("promote", params, GATE, self.store, workspace, decided_on, inputs)

    def _published(self, stage: str, word: str, folder: Path | None) -> Manifest:
        if folder is None:
            folder = self.folder / f"{stage}-{word}"
            folder.mkdir(exist_ok=True)
            (folder / "name").write_text(f"{stage} {word}")
        mark_complete(folder)
        fingerprint = digest(f"{stage} {word}")
        made = publish_model(self.store, stage, fingerprint, folder, 1, {})
        return Manifest(stage, fingerprint, {}, (made,))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(text: str) -> Commit:
    return Commit(digest(text)[:32], "key", 1, 1, digest(text))
