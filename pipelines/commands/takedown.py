"""`ddt takedown`: which data sets, token shards and models contain what a takedown list names.

All manifests that the store keeps are looked at, whatever the workspace shows. Record shards are searched by
sample, by url, and by the image's sha256, which `score` has written down; where it has not, images are read.
What is made from records is searched by sample. A model contains a sample where it was trained on a data set
that does, goes on from a model that does, or works on a tokenizer that does. What captioners answered about
images is kept apart from all that, and can be removed here: no version reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ddt.clean import one_line
from ddt.data.caption_cache import CACHE, answered, forget
from ddt.data.refs import STORE_PREFIX
from ddt.data.takedown import Takedown
from ddt.manifest import MANIFESTS, Commit, Manifest
from ddt.params import Params
from ddt.records import column_names, read_columns
from ddt.store import Store, open_store
from pipelines.commands.lineage import SHORT, is_key, lineage
from pipelines.engine.graph import STAGES
from pipelines.services import lock, registry
from pipelines.services.made_by import Runs
from pipelines.services.tracking import MANIFEST_KEY

THREADS = 16
SHOWN = 20  # of a kind, for people; --json has all
PICTURES = ("image", "target", "images")  # columns of encoded images, or of lists of them
OF_RECORDS, MODELS = ("recaption", "score"), ("train_tokenizer", "pretrain", "finetune")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Sample:
    """A sample that the list names: where it is, and what else there is to name it and its copies by."""

    sample_id: str
    images: tuple[str, ...]  # sha256 of their bytes
    url: str | None
    shard: str


@dataclass(frozen=True)
class Holder:
    """A manifest that contains such samples: how many of its rows, in which shards, or why its model does."""

    stage: str
    digest: str
    key: str
    rows: int
    shards: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class Cached:
    """An object with captioners' answers about images that the list names, or that its samples have."""

    key: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """All that contains what a list names. `missing`: what could not be looked at, a line each."""

    samples: Sequence[Sample]
    holders: Sequence[Holder]
    versions: Sequence[str]
    cached: Sequence[Cached]
    missing: Sequence[str]


def run(params: Params, path: str, as_json: bool, forget_answers: bool = False) -> None:
    """Print what contains the samples that the file at `path` names; ValueError where it is no such list.

    forget_answers: captioners' answers about them are removed then. Raises Locked while a run has the
    workspace, since it may be adding to the same objects.
    """
    store, takedown = open_store(params.paths.store), Takedown.read(path)
    if forget_answers:
        with lock.held(Path(params.paths.workspace), f"ddt takedown/{os.getpid()}", os.getpid()):
            found = search(store, takedown, params)
            for cached in found.cached:
                forget(store, cached.key, [bytes.fromhex(image) for image in cached.images])
    else:
        found = search(store, takedown, params)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print("\n".join(lines(found, "removed" if forget_answers else "kept")))


def search(store: Store, takedown: Takedown, params: Params) -> Found:
    """Search the whole store, and the registry for versions of what was found."""
    keys = [key for key in store.list(MANIFESTS) if is_key(key)]
    links = lineage(store, keys)
    manifests = [link.manifest for link in links if link.manifest is not None]
    samples = _samples(store, takedown, manifests)
    holders = [*_data_sets(store, manifests, samples)]
    trained_on = _trained_on(manifests, holders)
    missing = [one_line(link.fault) for link in links if link.fault]
    versions: list[str] = []
    try:
        inits = {key: run.params.get("init", "") for key, run in Runs(params.tracking).makers(keys).items()}
        holders += _models(manifests, trained_on, inits)
        versions = _versions(params, {holder.key for holder in holders if holder.stage in MODELS})
    except ValueError as error:
        missing.append(one_line(f"what MLflow knows of it: {error}"))
        holders += _models(manifests, trained_on, {})
    return Found(samples, holders, versions, _cached(store, takedown, samples), missing)


def lines(found: Found, answers: str = "kept") -> Iterator[str]:
    """The whole as people read it. answers: what became of captioners' answers."""
    yield f"{len(found.samples):,} samples"
    for sample in found.samples[:SHOWN]:
        yield f"  {sample.sample_id}  {one_line(sample.url or '')}"
        yield from (f"{'':16} image {digest}" for digest in sample.images)
    for holder in found.holders:
        what = "model" if holder.stage in MODELS else f"{holder.rows:,} rows in {len(holder.shards):,} shards"
        yield f"{holder.stage:16} {holder.digest[:SHORT]}  {holder.why or what}"
        yield from (f"{'':16} {shard}" for shard in holder.shards[:SHOWN])
    yield from (f"{'version':16} {version}" for version in found.versions)
    for cached in found.cached[:SHOWN]:
        yield f"{'answers':16} {cached.key}: about {len(cached.images):,} images, {answers}"
    yield from (f"{'not looked at':16} {line}" for line in found.missing)
    if not found.holders and not found.cached:
        yield "nothing in the store contains any of it"


def _samples(store: Store, takedown: Takedown, manifests: Iterable[Manifest]) -> list[Sample]:
    """The named samples of all record shards."""
    shards, scores = dict[str, Commit](), dict[str, str]()
    for manifest in manifests:
        for done in manifest.commits:
            if manifest.stage == "ingest":
                shards[done.key] = done
            elif manifest.stage == "score":
                scores[done.stats["records"]] = done.key

    def of_shard(key: str) -> list[Sample]:
        ids = read_columns(store.open(key), ["sample_id"])["sample_id"].to_pylist()
        named = takedown.names(ids)
        there = column_names(store.open(key))
        urls: list[str | None] = [None] * len(ids)
        if "url" in there:
            urls = read_columns(store.open(key), ["url"])["url"].to_pylist()
            named |= takedown.has_urls(urls)
        images = _digests(store, key, there, scores.get(key), named if not takedown.digests else None)
        named |= np.array([bool(takedown.digests.intersection(each)) for each in images], bool)
        return [Sample(ids[row], images[row], urls[row], key) for row in np.flatnonzero(named).tolist()]

    filled = [key for key, done in sorted(shards.items()) if done.rows]
    return [sample for found in _each(of_shard, filled) for sample in found]


def _digests(
    store: Store, key: str, there: Sequence[str], scores: str | None, named: np.ndarray | None
) -> list[tuple[str, ...]]:
    """sha256 of the images of each row: as `score` has them, or of the images themselves.

    named: where only these rows are asked for; the others' are not read.
    """
    if scores is not None:
        found = read_columns(store.open(scores), ["image_sha256"])["image_sha256"].to_pylist()
        return [(digest.hex(),) for digest in found]
    columns = [name for name in PICTURES if name in there]
    rows = None if named is None else np.flatnonzero(named).tolist()
    table = read_columns(store.open(key), columns, rows)
    digests = [
        tuple(hashlib.sha256(image).hexdigest() for value in row.values() for image in _images(value))
        for row in table.to_pylist()
    ]
    if named is None:
        return digests
    of_row = dict(zip(rows or (), digests, strict=True))
    return [of_row.get(row, ()) for row in range(len(named))]


def _images(value: bytes | list[bytes]) -> list[bytes]:
    return [value] if isinstance(value, bytes) else value


def _cached(store: Store, takedown: Takedown, samples: Sequence[Sample]) -> list[Cached]:
    """Answers about images that the list names itself, whose records may be gone, or through a sample."""
    named = takedown.digests.union(*(sample.images for sample in samples))
    images, keys = {bytes.fromhex(digest) for digest in named}, sorted(store.list(CACHE))
    found = _each(lambda key: answered(store, key, images), keys)
    return [
        Cached(key, tuple(image.hex() for image in about))
        for key, about in zip(keys, found, strict=True)
        if about
    ]


def _data_sets(store: Store, manifests: Iterable[Manifest], samples: Sequence[Sample]) -> Iterator[Holder]:
    """The data sets with rows of these samples. Of captions and scores there is one for each record."""
    by_shard: dict[str, int] = {}
    for sample in samples:
        by_shard[sample.shard] = by_shard.get(sample.shard, 0) + 1
    ids, read = {sample.sample_id for sample in samples}, dict[str, int]()

    def rows_of(done: Commit) -> int:
        if done.key not in read:
            found = read_columns(store.open(done.key), ["sample_id"])["sample_id"].to_pylist()
            read[done.key] = sum(name in ids for name in found)
        return read[done.key]

    for manifest in manifests:
        if manifest.stage == "ingest":
            counts = {c.key: by_shard.get(c.key, 0) for c in manifest.commits}
        elif manifest.stage in OF_RECORDS:
            counts = {c.key: by_shard.get(c.stats["records"], 0) for c in manifest.commits}
        elif manifest.stage in ("select", "tokenize_images") and ids:
            filled = [c for c in manifest.commits if c.rows]
            counts = dict(zip([c.key for c in filled], _each(rows_of, filled), strict=True))
        else:
            continue
        holding = tuple(sorted(key for key, count in counts.items() if count))
        if holding:
            yield Holder(
                manifest.stage, manifest.digest, manifest.key, sum(counts[key] for key in holding), holding
            )


def _trained_on(manifests: Iterable[Manifest], holders: Iterable[Holder]) -> set[str]:
    """Keys of the data sets that give such samples to a training: a tokenizer sees some records alone."""
    shards = {holder.key: holder.shards for holder in holders}
    found = {holder.key for holder in holders if holder.stage == "tokenize_images"}
    for manifest in manifests:
        if manifest.stage == "ingest" and manifest.key in shards:
            roles = {done.key: done.stats["role"] for done in manifest.commits}
            shown = "images" if "images" in roles.values() else "pairs"
            if any(roles[key] == shown for key in shards[manifest.key]):
                found.add(manifest.key)
    return found


def _models(manifests: Sequence[Manifest], holding: set[str], inits: Mapping[str, str]) -> list[Holder]:
    """Models that read what holds, or go on from such a model: inputs and `init`s are followed."""
    found: dict[str, Holder] = {}
    weights = dict[str, str]()  # `init` of who goes on from a model that was found -> its key
    while True:
        before = len(found)
        for manifest in manifests:
            if manifest.stage not in MODELS or manifest.key in found:
                continue
            read = [key for key in manifest.made_from.values() if key in holding or key in found]
            read += [weights[init] for init in (inits.get(manifest.key, ""),) if init in weights]
            if read:
                why = "; ".join(f"from {key.split('/')[1]} {key.split('/')[2][:SHORT]}" for key in read)
                holder = Holder(manifest.stage, manifest.digest, manifest.key, 0, (), why)
                found[manifest.key] = holder
                for done in manifest.commits:
                    weights[f"{STORE_PREFIX}{done.key.rpartition('/')[0]}"] = manifest.key
        if len(found) == before:
            return sorted(found.values(), key=lambda holder: (STAGES.index(holder.stage), holder.key))


def _versions(params: Params, models: set[str]) -> list[str]:
    found = []
    for version in registry.all_versions(params.tracking):
        if version.tags.get(MANIFEST_KEY) in models:
            aliases = registry.aliases_of(params.tracking, version)
            told = f" ({', '.join(aliases)})" if aliases else ""
            found.append(f"models:/{version.name}/{version.number}{told}")
    return found


def _each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))
