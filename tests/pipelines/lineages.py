"""Whole lineages in one store and one MLflow, made by the pipeline's own means but for the work itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ddt.data.refs import STORE_PREFIX
from ddt.eval.benchmark import Score
from ddt.manifest import Commit, Manifest, write_unit
from ddt.params import Params, load_params
from ddt.store import mark_complete, open_store
from pipelines import promote
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.engine.runner import StageContext
from pipelines.reports.report import SCORES, Report
from pipelines.reports.workspace import manifest_path, report_key
from pipelines.services import registry, tracking
from pipelines.services.models import publish_model
from pipelines.services.stage_run import StageRun
from tests.pipelines.promotion import GATE, PSNR, ROOT, digest

MODELS = ("train_tokenizer", "pretrain", "finetune")


class Lineages:
    """Runs of the pipeline, each known by a word; the workspace shows the last one."""

    def __init__(self, folder: Path, uri: str, name: str, store: str | None = None) -> None:
        self.folder, self.store, self.name = folder, open_store(store or folder / "store"), name
        kept_in = f"paths.store={self.store.root_uri}"
        places = (kept_in, f"paths.workspace={folder}/workspace", f"tracking.uri={uri}")
        names = (f"tracking.model_name={name}", f"tracking.tokenizer_name={name}-tokenizer")
        self.settings = [*places, *names, f"tracking.experiment={name}"]
        made = load_params(ROOT / "params.yaml", None, self.settings)
        self.params: Params = replace(made, promote=GATE)
        self.made: dict[str, dict[str, Manifest]] = {}
        self.runs: dict[tuple[str, str], str] = {}  # (word, stage) -> id; "whole" of the pipeline's run

    def make(self, word: str, until: str = "promote") -> dict[str, Manifest]:
        """A run of the stages up to one of them; what each made."""
        where, made = self.params.tracking, dict[str, Manifest]()
        tags = {"metaflow_run": f"FullPipeline/{word}"}
        whole = self.runs[word, "whole"] = tracking.start_parent(where, word, tags, 1)
        for stage in STAGES[: STAGES.index(until) + 1]:
            inputs = {name: made[name] for name in INPUTS[stage]}
            read = {name: (m.digest, self.store.uri(m.key)) for name, m in inputs.items()}
            workspace = Path(self.params.paths.workspace)
            section = {"init": f"{STORE_PREFIX}shards/finetune/{word}"} if stage == "pretrain" else {}
            run = StageRun(where, stage, self.fingerprint(stage, word), section, read, workspace, whole)
            made[stage] = self._made(stage, word, inputs)
            report = Report(stage, made[stage].fingerprint, made[stage].digest, made[stage].keep(self.store))
            self.store.put_bytes(report_key(report.manifest), report.to_json().encode())
            run.finish(report)
            self.runs[word, stage] = run.id
            made[stage].save(manifest_path(workspace, stage))
        tracking.finish_parent(where, whole, {}, [])
        self.made[word] = made
        return made

    def _made(self, stage: str, word: str, inputs: dict[str, Manifest]) -> Manifest:
        made_from = {name: manifest.key for name, manifest in inputs.items()}
        digests = {name: manifest.digest for name, manifest in inputs.items()}
        if stage == "promote":
            ctx = StageContext(
                stage,
                self.params,
                GATE,
                self.store,
                self.folder / "workspace",
                self.fingerprint(stage, word),
                inputs,
            )
            commits = tuple(promote.run(ctx).commits)
        elif stage in MODELS:
            commits = (self._model(stage, word),)
        else:
            commits = tuple(self._shard(stage, word, part) for part in range(2))
        score = Score(25.0, 24.9, 25.1, 100, floor=15.0, floor_is="grey").to_dict()
        extra = {SCORES: {PSNR: score}} if stage == "evaluate" else {}
        return Manifest(stage, self.fingerprint(stage, word), digests, commits, extra, made_from)

    def _shard(self, stage: str, word: str, part: int) -> Commit:
        path = self.folder / f"{stage}-{word}-{part}.arrow"
        path.write_text(f"{self.name} {stage} {word} {part}")
        stats = {"role": "pairs", "from": "ingest.source", "name": f"{word}-{part}.tar"}
        unit, rejects = digest(path.name)[:32], path if stage == "ingest" else None
        if stage == "ingest":
            self.store.put_file(f"raw/{unit}.tar", path)
        made_by = self.fingerprint(stage, word)
        return write_unit(
            self.store,
            stage,
            made_by,
            unit,
            path,
            10,
            rejects={"too_small": 1},
            rejects_path=rejects,
            stats=stats,
        )

    def _model(self, stage: str, word: str) -> Commit:
        folder = self.model_folder(stage, word)
        folder.mkdir()
        stages = STAGES[STAGES.index("pretrain") : STAGES.index(stage) + 1]
        made_from = {name: self.fingerprint(name, word) for name in stages}
        if stage == "train_tokenizer":
            made_from = {"fingerprint": self.fingerprint(stage, word)}
        file = "config.json" if stage == "train_tokenizer" else "ddt.json"
        (folder / file).write_text(json.dumps({"made_from": made_from}))
        mark_complete(folder)
        return publish_model(self.store, stage, self.fingerprint(stage, word), folder, 5, {})

    def model_folder(self, stage: str, word: str) -> Path:
        """Where the model of a run was before it was published."""
        return self.folder / f"{stage}-{word}"

    def fingerprint(self, stage: str, word: str) -> str:
        return digest(f"{self.name} {stage} {word}")

    def version(self, number: str) -> registry.Version:
        where = self.params.tracking
        found = registry.find_version(where, where.model_name, number)
        assert found is not None
        return found
