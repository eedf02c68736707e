"""Training that goes on with new data: what is new, and the champion that the next model starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddt.data.refs import STORE_PREFIX
from ddt.manifest import Manifest
from ddt.params import Params
from ddt.store import StoreError, open_store
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.engine.runner import StageError, stage_context
from pipelines.ingest import source_units
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, show
from pipelines.services import registry
from pipelines.services.models import champion_or_candidate, key_of
from pipelines.services.tracking import MANIFEST_KEY

KEPT = "train_tokenizer"  # whose codes the language model knows: another tokenizer's would mean other things


@dataclass(frozen=True)
class Champion:
    """The version that training goes on from, where the store has it, and its tokenizer's manifest there."""

    version: registry.Version
    model_key: str
    tokenizer: str


def what_is_new(params: Params) -> list[str]:
    """Source shards that the workspace's last manifest does not have, by name, or stages that lag behind it.

    Empty: the model there is of all the data there are. A run that was broken off is gone on with.
    """
    workspace = Path(params.paths.workspace)
    ctx = stage_context("ingest", params)
    path = manifest_path(workspace, "ingest")
    known = Manifest.load(path).units if path.is_file() else set()
    units = source_units(ctx.section, ctx.fingerprint)
    return [unit["name"] for unit in units if unit["unit"] not in known] or behind(workspace)


def behind(workspace: Path) -> list[str]:
    """Stages that were not made from what now lies in the workspace, but for the tokenizer, which is kept."""
    paths = {stage: manifest_path(workspace, stage) for stage in STAGES}
    made = {stage: Manifest.load(path) for stage, path in paths.items() if path.is_file()}

    def is_behind(stage: str) -> bool:
        now = {name: made[name].key for name in INPUTS[stage] if name in made}
        return stage not in made or made[stage].made_from != now

    return [stage for stage in STAGES if stage != KEPT and is_behind(stage)]


def find_champion(params: Params) -> Champion:
    """The champion, or the candidate where there is none; ValueError where the store here has not made it."""
    store = open_store(params.paths.store).root_uri
    version = champion_or_candidate(params.tracking.model_name, params.tracking)
    key, kept_in = key_of(version), version.tags["store"]
    if kept_in != store:
        raise StageError(f"{version.name} version {version.number} is in {kept_in}, expected in {store}")
    paired = json.loads(version.tags[registry.TOKENIZER])
    tokenizer = registry.find_version(params.tracking, paired["name"], paired["version"])
    if tokenizer is None:
        raise StageError(
            f"{paired['name']} version {paired['version']}, its tokenizer, was deleted in MLflow"
        )
    if MANIFEST_KEY not in tokenizer.tags:
        raise StageError(f"{paired['name']} version {paired['version']} is an earlier release's: run it anew")
    return Champion(version, key, tokenizer.tags[MANIFEST_KEY])


def continued(settings: dict[str, Any], champion: Champion) -> dict[str, Any]:
    """The settings of a run whose language model starts from the champion."""
    init = {"init": f"{STORE_PREFIX}{champion.model_key}", "model": None}
    return settings | {"pretrain": settings["pretrain"] | init}


def keep_tokenizer(params: Params, key: str) -> Report:
    """Puts the champion's tokenizer, by its manifest's key, in the place of the one that would be trained."""
    try:
        manifest = Manifest.kept(open_store(params.paths.store), key)
    except StoreError as error:
        raise StageError(f"the champion's tokenizer: {error}") from None
    note = f"kept: the champion's, version {manifest.digest[:16]}"
    report = Report(KEPT, manifest.fingerprint, manifest.digest, key, skipped=True, notes=[note])
    show(Path(params.paths.workspace), manifest, report)
    return report
