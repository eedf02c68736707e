"""What `ddt trace` and `verify` may be asked about, and the manifests that each of these ends stands for.

A version of the registry says its manifest itself, and its decision those that were decided on. A folder and
a picture name the computation that made the model, by its fingerprint, and an MLflow run what it made. What
lies in the workspace is never looked at.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddt.clean import parse_json
from ddt.manifest import Manifest, commits
from ddt.params import Params
from ddt.store import MARKER, Store, marked_digest, open_store
from pipelines.commands.lineage import is_key, keys_of, keys_of_digest
from pipelines.commands.origin import DIGEST, read_origin
from pipelines.engine.graph import STAGES
from pipelines.promote import DECISION
from pipelines.services import registry
from pipelines.services.made_by import Run, Runs
from pipelines.services.models import registered
from pipelines.services.passwords import shown
from pipelines.services.tracking import MANIFEST_KEY

BEGINNING = re.compile(r"[0-9a-f]{8,64}")
RUN_ID = re.compile(r"[0-9a-f]{32}")
CHECKPOINT = re.compile(r"step-\d+-\d+")  # as ddt.train.checkpoint names them, which would import torch
METAFLOW = re.compile(r"[A-Za-z]\w*/[\w.-]+")
EXPECTED = (
    "a version (models:/...), a digest of 8 or more hex digits, a run of MLflow or Metaflow, a model's "
    "folder, a picture"
)
# What a model's folder says of itself: ddt.json of a language model, config.json of a tokenizer.
MODEL_FILES = {"ddt.json": ("finetune", "pretrain"), "config.json": ("fingerprint",)}
TOKENIZER = "train_tokenizer"


@dataclass(frozen=True)
class End:
    """Where a lineage is followed from.

    `keys`: manifests in `store`. `version`: the registry's, where the end is one. `facts`: what the end tells
    of itself. `missing`: what it names and is not there, a line each.
    """

    kind: str
    name: str
    store: Store
    keys: tuple[str, ...]
    version: registry.Version | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def find_end(end: str | None, params: Params) -> End:
    """What `end` means; None is the champion, or the candidate. ValueError where it is nothing."""
    store = open_store(params.paths.store)
    if end is None or end.startswith("models:"):
        return of_version(registered(end or f"models:/{params.tracking.model_name}", params.tracking))
    path = Path(end)
    if path.is_dir():
        return _of_folder(path, store, params)
    if path.is_file():
        return _of_picture(path, store, params)
    if is_key(end):
        return End("dataset", end, store, (end,))
    run = Runs(params.tracking).get(end) if RUN_ID.fullmatch(end) else None
    if run is not None:
        return _of_run(run, store, params, f"run {end}")
    if BEGINNING.fullmatch(end):
        return _of_digest(end, store)
    if METAFLOW.fullmatch(end):
        run = Runs(params.tracking).of_metaflow(end)
        if run is not None:
            return _of_run(run, store, params, end)
        raise ValueError(
            f"{end}: no file or folder, and no Metaflow run that {shown(params.tracking.uri)} knows; a run "
            "that was resumed goes by its first number"
        )
    raise ValueError(f"{end}: expected {EXPECTED}")


def of_version(version: registry.Version) -> End:
    """A version of the registry, with what was decided on it."""
    if "store" not in version.tags:
        raise ValueError(f"{version.name} version {version.number}: not registered by `promote`")
    name, store = f"models:/{version.name}/{version.number}", open_store(version.tags["store"])
    named = is_key(version.tags.get(MANIFEST_KEY))
    missing = () if named else (f"{name} does not name its manifest: an earlier release's",)
    return End("version", name, store, manifests_of(version), version, missing=missing)


def manifests_of(version: registry.Version) -> tuple[str, ...]:
    """Keys of a version's own manifest and of those that were decided on."""
    keys = [version.tags.get(MANIFEST_KEY), *decision_of(version).get("made_from", {}).values()]
    return tuple(dict.fromkeys(key for key in keys if is_key(key)))


def decision_of(version: registry.Version) -> dict[str, Any]:
    """The decision that a version is tagged with; empty where there is none, or somebody edited it."""
    try:
        found = json.loads(version.tags.get(DECISION, "{}"))
    except ValueError:
        return {}
    made_from = found.get("made_from", {}) if isinstance(found, dict) else None
    return found if isinstance(made_from, dict) else {}


def _of_digest(end: str, store: Store) -> End:
    keys = keys_of_digest(store, end)
    digest = keys[0].split("/")[2]
    facts = {"ways": len(keys)} if len(keys) > 1 else {}
    return End("dataset", digest, store, tuple(keys), facts=facts)


def _of_run(run: Run, store: Store, params: Params, name: str) -> End:
    """A stage's run by what it made, or what it read where it made nothing; a whole one by its stages'."""
    facts: dict[str, Any] = {"run": run.id, "status": run.status, "started": run.started}
    missing = [f"run {run.id} was deleted in MLflow"] if run.deleted else []
    if run.stage is not None:
        made = [run]
    else:
        newest: dict[str | None, Run] = {}
        for child in Runs(params.tracking).children(run.id):
            newest.setdefault(child.stage, child)
        made = list(newest.values())
        facts["metaflow_run"] = run.metaflow_run
        if not made:
            missing.append(f"run {run.id} has no stages in MLflow")
    keys = [key for each in made for key in ([each.manifest] if each.manifest else each.inputs)]
    missing += [f"{each.stage}: {each.status}, it made nothing" for each in made if not each.manifest]
    return End("run", name, store, tuple(filter(is_key, dict.fromkeys(keys))), None, facts, tuple(missing))


def _of_folder(path: Path, store: Store, params: Params) -> End:
    path = path.resolve()
    if CHECKPOINT.fullmatch(path.name):
        return _of_checkpoint(path, store, params)
    for file, names in MODEL_FILES.items():
        if (path / file).is_file():
            made_from = _made_from(path / file)
            for name in names:
                if name in made_from:
                    stage = TOKENIZER if file == "config.json" else name
                    digest = marked_digest(path)
                    return _of_model("folder", str(path), stage, made_from[name], digest, store, params)
    raise ValueError(f"{path}: does not say what it was made from; expected a model or checkpoint of a stage")


def _made_from(file: Path) -> dict[str, str]:
    try:
        said = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    found = said.get("made_from") if isinstance(said, dict) else None
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, str) and DIGEST.fullmatch(value)}


def _of_picture(path: Path, store: Store, params: Params) -> End:
    said = read_origin(path)
    made_from = said["made_from"]
    stage = next((name for name in MODEL_FILES["ddt.json"] if name in made_from), None)
    if stage is None:
        nothing = f"the model {said['model'][:16]} that drew it does not say what it was made from"
        return End("picture", str(path), store, (), None, said, (nothing,))
    found = _of_model("picture", str(path), stage, made_from[stage], said["model"], store, params)
    return End(found.kind, found.name, store, found.keys, None, said, found.missing)


def _of_model(
    kind: str, name: str, stage: str, fingerprint: str, digest: str, store: Store, params: Params
) -> End:
    """A model by the fingerprint that it names, its content compared with what the store has of that."""
    facts = {"model": digest, "fingerprint": fingerprint}
    made = tuple(commits(store, stage, fingerprint).values())  # one: the model
    digest_there = Manifest(stage, fingerprint, {}, made).digest
    keys = keys_of(store, stage, digest_there, fingerprint) if made else []
    if not keys:
        run = Runs(params.tracking).of_fingerprint(stage, fingerprint)
        keys = [run.manifest] if run is not None and is_key(run.manifest) else []
    missing = []
    if not keys:
        missing.append(f"{stage} {fingerprint[:16]}: no manifest of it in {store.root_uri}, no run in MLflow")
    elif made and digest not in {done.sha256 for done in made}:
        missing.append(f"the model {digest[:16]} itself is not what {store.root_uri} has of this {stage}")
    return End(kind, name, store, tuple(keys), None, facts, tuple(missing))


def _of_checkpoint(path: Path, store: Store, params: Params) -> End:
    """By the stage's run in MLflow, whose beginning says what it reads: its end is not there yet."""
    stage, fingerprint = path.parts[-3:-1]
    if stage not in STAGES or not BEGINNING.fullmatch(fingerprint):
        raise ValueError(f"{path}: expected a checkpoint at checkpoints/<stage>/<fingerprint>/ of a store")
    facts: dict[str, Any] = {"stage": stage, "fingerprint": fingerprint}
    missing = [] if (path / MARKER).is_file() else [f"{path} is not complete: its writer was interrupted"]
    run = Runs(params.tracking).of_fingerprint(stage, fingerprint)
    if run is None:
        missing.append(f"{stage} {fingerprint}: no run in MLflow, which would say what it reads")
        return End("checkpoint", str(path), store, (), None, facts, tuple(missing))
    facts |= {"run": run.id, "status": run.status, "started": run.started}
    keys = [run.manifest] if run.manifest else run.inputs
    return End("checkpoint", str(path), store, tuple(filter(is_key, keys)), None, facts, tuple(missing))
