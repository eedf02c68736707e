"""Models between stages: complete folders in the store, found through a stage's manifest."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddt.clean import one_line
from ddt.hub import local_folder
from ddt.manifest import Commit, Manifest, commit, shard_prefix
from ddt.params import Params
from ddt.sections.run import Tracking
from ddt.store import MARKER, Store, folder_digest, open_store, require_complete
from pipelines.services import registry
from pipelines.services.passwords import shown

REFERENCE = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))?")

FAILED_METRIC = re.compile(r"(?:^|; )([\w/]+):")  # where each of `promote`'s reasons begins


def publish_model(
    store: Store, stage: str, fingerprint: str, folder: Path, rows: int, stats: dict[str, Any]
) -> Commit:
    """Put a complete model folder in the store and commit it as the stage's one unit."""
    prefix = f"{shard_prefix(stage, fingerprint)}model"
    store.put_tree(prefix, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done = Commit(fingerprint[:32], f"{prefix}/{MARKER}", rows, size, folder_digest(folder), stats=stats)
    return commit(store, stage, fingerprint, done)


def model_key(manifest: Manifest) -> str:
    """Store prefix of the model a training stage made."""
    return manifest.commits[0].key.removesuffix(f"/{MARKER}")


def model_folder(store: Store, manifest: Manifest) -> Path:
    """Local folder with the model a training stage made."""
    return store.fetch_tree(model_key(manifest))


def image_tokenizer_folder(folder: Path) -> Path:
    """Where a folder's image tokenizer is: inside a language model's, or the folder itself."""
    inner = folder / "image_tokenizer"  # as ddt.mllm.folder names it, which would import torch
    return inner if inner.is_dir() else folder


@dataclass(frozen=True)
class Found:
    """A model's local folder, and its version where it is the registry's."""

    folder: Path
    version: registry.Version | None


def find(reference: str | None, params: Params | None) -> Found:
    """A model by a folder, a hub id, or a reference of the registry, whose place `params` say.

    models:/<name>@<alias> and models:/<name>/<version> are that version and no other. models:/<name> is its
    champion, or where there is none its candidate, which is told on stderr; None stands for the language
    model's. Raises ValueError in one line where there is no such model.
    """
    if reference is not None and not reference.startswith("models:"):
        return Found(require_complete(local_folder(reference)), None)
    assert params is not None  # who takes references of the registry reads them
    version = registered(reference or f"models:/{params.tracking.model_name}", params.tracking)
    return Found(open_store(version.tags["store"]).fetch_tree(key_of(version)), version)


def find_model(reference: str | None, params: Params | None) -> Path:
    """The folder alone of what `find` finds."""
    return find(reference, params).folder


def key_of(version: registry.Version) -> str:
    """Store prefix of a registered version's folder. ValueError where nobody tagged it with one."""
    if "key" not in version.tags:
        raise ValueError(
            f"{version.name} version {version.number}: not registered by `promote`; run it again"
        )
    return version.tags["key"]


def registered(reference: str, where: Tracking) -> registry.Version:
    """The version that a reference of the registry means; ValueError in one line where there is none."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(
            f"{reference}: expected models:/<name>, models:/<name>@<alias> or models:/<name>/<version>"
        )
    name, alias, number = found.groups()
    if alias is None and number is None:
        return champion_or_candidate(name, where)
    version = registry.find_version(where, name, alias or number)
    if version is None:
        kind = "alias" if alias else "version"
        raise ValueError(f"{reference}: no such {kind} in {shown(where.uri)}; has the pipeline been run?")
    return version


def champion_or_candidate(name: str, where: Tracking) -> registry.Version:
    """The champion; where there is none the candidate, which is told. ValueError where there is neither."""
    champion = registry.find_version(where, name, registry.CHAMPION)
    if champion is not None:
        return champion
    candidate = registry.find_version(where, name, registry.CANDIDATE)
    if candidate is None:
        raise ValueError(
            f"{name}: neither champion nor candidate in {shown(where.uri)}; run "
            "`python flows/full_pipeline.py run` to make one, or name a folder by --model"
        )
    refused_for = FAILED_METRIC.findall(candidate.tags.get("verdict_reasons", ""))
    why = f"it was refused for {', '.join(refused_for)}" if refused_for else "it was not promoted"
    told = f"{name} version {candidate.number}, the candidate, is used: there is no champion yet, {why}"
    print(one_line(told), file=sys.stderr)
    return candidate
