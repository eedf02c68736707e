"""Units, commits and manifests: what a stage has done, and the version of what it made.

unit      one input shard (by content digest) x the stage's fingerprint
commit    a small JSON beside the output shard, put only if absent; a unit without one has not been done
manifest  the sorted commits of a stage; its digest is the dataset's version

A manifest is kept in the store under its digest and never changes; who hands on data hands on its key there.

Two workers may do the same unit. Each writes its shard under a name made of the unit and the shard's own
sha256, so neither can change the other's; the first commit decides which of them counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ddt.store import MARKER, NotFound, Store, StoreError, folder_digest, marked_files, sha256_file

FORMAT = 1
MANIFESTS = "manifests/"  # where a store keeps them
KEY_OF_MANIFEST = re.compile(MANIFESTS + r"(\w+)/([0-9a-f]{64})/[0-9a-f]{16}\.json")  # stage, digest


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; dataclasses as dicts, tuples as lists; NaN is refused."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        if isinstance(item, set | frozenset):
            return sorted(item)
        raise TypeError(f"{type(item).__name__} has no canonical JSON form")

    return json.dumps(value, default=plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _module_files(name: str) -> list[tuple[str, Path]]:
    """(name within the module, file) of a module's source, or of all *.py of a package, recursively."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"fingerprint: no source for module {name!r}")
    if not spec.submodule_search_locations:
        return [(name, Path(spec.origin))]
    root = Path(spec.origin).parent
    return [(f"{name}/{path.relative_to(root).as_posix()}", path) for path in root.rglob("*.py")]


def modules_digest(modules: Iterable[str]) -> str:
    """Digest of the source text of modules and packages; the same wherever they are installed."""
    files = dict(item for module in modules for item in _module_files(module))
    digest = hashlib.sha256()
    for name in sorted(files):
        source = files[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\n{hashlib.sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()


def fingerprint(section: Any, inputs: Mapping[str, str], modules: Iterable[str]) -> str:
    """What makes a stage's result the same: its parameters, the digests of its inputs and models, its code.

    section: the stage's params section, a dataclass or a dict. `resources` and `paths` are no part of it.
    inputs: name -> digest. modules: names of the modules and packages that compute the result.
    """
    parts = {"section": section, "inputs": dict(inputs), "modules": modules_digest(modules)}
    return _sha256(canonical_json(parts))


def unit_id(input_digest: str, fingerprint: str) -> str:
    """The name of one unit of work: 32 hex digits."""
    return _sha256(f"{input_digest}\n{fingerprint}")[:32]


@dataclasses.dataclass(frozen=True)
class Commit:
    """That one unit is done, and what came of it.

    rejects: count by reason. stats: small facts that the content determines (means, counts).
    timing: how it went this time (seconds); kept in the commit's record, never in a manifest.
    """

    unit: str
    key: str
    rows: int
    bytes: int
    sha256: str
    rejects: dict[str, int] = dataclasses.field(default_factory=dict)
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)
    rejects_key: str | None = None
    timing: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """A unit that failed for good and was left out: its id, the file it is of, and what was told of it."""

    unit: str
    name: str
    reason: str


def units_prefix(stage: str, fingerprint: str) -> str:
    """Where the commits of one stage and fingerprint are."""
    return f"units/{stage}/{fingerprint[:16]}/"


def shard_prefix(stage: str, fingerprint: str) -> str:
    """Where the shards of one stage and fingerprint are."""
    return f"shards/{stage}/{fingerprint[:16]}/"


def put_shard(
    store: Store, stage: str, fingerprint: str, unit: str, path: str | Path, suffix: str = ".arrow"
) -> tuple[str, int, str]:
    """Copies a finished local file into the store; returns its (key, bytes, sha256)."""
    digest = sha256_file(path)
    key = f"{shard_prefix(stage, fingerprint)}{unit}-{digest[:16]}{suffix}"
    if not store.exists(key):
        store.put_file(key, path)
    return key, Path(path).stat().st_size, digest


def commit(store: Store, stage: str, fingerprint: str, commit: Commit) -> Commit:
    """Records a unit as done and returns the commit that stands: this one, or the one that was first.

    A loser's shards are removed where the winner does not use them. A record whose shard has since been
    deleted does not stand: it is replaced.
    """
    key = f"{units_prefix(stage, fingerprint)}{commit.unit}.json"
    record = {"format": FORMAT, "fingerprint": fingerprint} | dataclasses.asdict(commit)
    data = (canonical_json(record) + "\n").encode()
    if store.put_if_absent(key, data):
        return commit
    winner = _parse(store.uri(key), store.get_bytes(key), fingerprint)
    if not store.exists(winner.key):
        store.put_bytes(key, data)
        return commit
    for mine in {commit.key, commit.rejects_key} - {winner.key, winner.rejects_key, None}:
        store.delete(str(mine))
    return winner


def write_unit(
    store: Store,
    stage: str,
    fingerprint: str,
    unit: str,
    path: str | Path,
    rows: int,
    *,
    rejects: Mapping[str, int] | None = None,
    rejects_path: str | Path | None = None,
    stats: Mapping[str, Any] | None = None,
    timing: Mapping[str, float] | None = None,
) -> Commit:
    """Puts a unit's shard (and its shard of rejects) in the store, then commits; the whole end of a unit."""
    key, size, digest = put_shard(store, stage, fingerprint, unit, path, Path(path).suffix)
    rejects_key = None
    if rejects_path is not None:
        rejects_key = put_shard(store, stage, fingerprint, unit, rejects_path, ".rejects.arrow")[0]
    done = Commit(
        unit, key, rows, size, digest, dict(rejects or {}), dict(stats or {}), rejects_key, dict(timing or {})
    )
    return commit(store, stage, fingerprint, done)


def _parse(place: str, data: bytes, fingerprint: str) -> Commit:
    try:
        record = json.loads(data)
        if record.pop("format") != FORMAT:
            raise ValueError("another format")
        if record.pop("fingerprint") != fingerprint:
            raise ValueError("another fingerprint")
        return Commit(**record)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{place}: not a commit record of this stage ({error})") from error


def commits(store: Store, stage: str, fingerprint: str) -> dict[str, Commit]:
    """unit -> commit of every unit that is done: it has its record, and its shard is there."""
    keys = store.list(units_prefix(stage, fingerprint))
    shards = set(store.list(shard_prefix(stage, fingerprint)))
    found = [_parse(store.uri(key), data, fingerprint) for key, data in store.get_many(keys).items()]
    return {done.unit: done for done in found if done.key in shards}


def committed(store: Store, stage: str, fingerprint: str, unit: str) -> Commit | None:
    """The commit of one unit where it is done, as `commits` has it; else None."""
    key = f"{units_prefix(stage, fingerprint)}{unit}.json"
    try:
        done = _parse(store.uri(key), store.get_bytes(key), fingerprint)
    except NotFound:
        return None
    return done if store.exists(done.key) else None


def _in_manifest(done: Commit) -> dict[str, Any]:
    facts = dataclasses.asdict(done)
    del facts["timing"]
    return facts


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The result of a stage: its shards, in an order that depends on their content alone.

    inputs: stage -> digest of what it was made from. made_from: stage -> the key of that manifest in the
    store. The same data may be made in several ways; these say which way this was. extra: facts of the whole.
    quarantined: units that are missing since they failed; with others missing it is another version.
    """

    stage: str
    fingerprint: str
    inputs: dict[str, str]
    commits: tuple[Commit, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    made_from: dict[str, str] = dataclasses.field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()

    def __post_init__(self) -> None:
        items = self.commits.values() if isinstance(self.commits, dict) else self.commits
        object.__setattr__(self, "commits", tuple(sorted(items, key=lambda c: (c.sha256, c.unit))))
        object.__setattr__(self, "quarantined", tuple(sorted(self.quarantined, key=lambda q: q.unit)))

    @property
    def digest(self) -> str:
        """The dataset's version: over rows and sha256 of the shards, and the units that are missing; not over
        places, times or parameters.
        """
        shards = [[c.sha256, c.rows] for c in self.commits]
        return _sha256(canonical_json(shards + [["quarantined", q.unit] for q in self.quarantined]))

    @property
    def units(self) -> set[str]:
        """All units that it is of, those that are missing included."""
        return {c.unit for c in self.commits} | {q.unit for q in self.quarantined}

    @property
    def rows(self) -> int:
        return sum(c.rows for c in self.commits)

    @property
    def bytes(self) -> int:
        return sum(c.bytes for c in self.commits)

    @property
    def rejects(self) -> dict[str, int]:
        """Rejected samples by reason, over all units."""
        total: dict[str, int] = {}
        for done in self.commits:
            for reason, count in done.rejects.items():
                total[reason] = total.get(reason, 0) + count
        return dict(sorted(total.items()))

    def to_json(self) -> str:
        """The same text for the same content, one unit to a line so that a diff shows which changed."""
        head = {
            "format": FORMAT,
            "stage": self.stage,
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "bytes": self.bytes,
            "rejects": self.rejects,
            "inputs": dict(sorted(self.inputs.items())),
            "made_from": dict(sorted(self.made_from.items())),
            "extra": self.extra,
        }
        if self.quarantined:
            head["quarantined"] = [dataclasses.asdict(q) for q in self.quarantined]
        lines = [f" {json.dumps(name)}: {canonical_json(value)}" for name, value in head.items()]
        units = ",\n".join(f"  {canonical_json(_in_manifest(c))}" for c in self.commits)
        lines.append(f' "commits": [\n{units}\n ]' if self.commits else ' "commits": []')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | Path) -> Path:
        """Writes the manifest; a reader sees the old file or the new one, never a part."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_text(self.to_json())
        temporary.replace(target)
        return target

    @property
    def key(self) -> str:
        """Where the store keeps it: below its stage and digest, a file for each way in which it was made."""
        return f"{MANIFESTS}{self.stage}/{self.digest}/{_sha256(self.to_json())[:16]}.json"

    def keep(self, store: Store) -> str:
        """Puts the manifest in the store, if it is not there; returns its key."""
        store.put_if_absent(self.key, self.to_json().encode())
        return self.key

    @classmethod
    def kept(cls, store: Store, key: str) -> Manifest:
        """The manifest that the store keeps at `key`; StoreError where there is none, or another text."""
        try:
            manifest = cls.parse(store.uri(key), store.get_bytes(key).decode())
        except NotFound:
            raise StoreError(f"{store.uri(key)}: no such manifest; it was removed from the store") from None
        if manifest.key != key:
            raise StoreError(f"{store.uri(key)}: its content has changed")
        return manifest

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Reads a saved manifest; ValueError where there is none or its digest does not match its units."""
        try:
            return cls.parse(path, Path(path).read_text())
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such manifest; run the stage that makes it first") from error

    @classmethod
    def parse(cls, place: str | Path, text: str) -> Manifest:
        """A manifest from its JSON; ValueError naming `place` where it is none, or was edited."""
        try:
            found = json.loads(text)
            units = tuple(Commit(**item) for item in found["commits"])
            known = (found["stage"], found["fingerprint"], found["inputs"], units, found["extra"])
            missing = tuple(Quarantined(**item) for item in found.get("quarantined", ()))
            manifest = cls(*known, found.get("made_from", {}), missing)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{place}: not a manifest ({error}); run the stage that makes it again"
            ) from error
        if manifest.digest != found["digest"]:
            raise ValueError(
                f"{place}: its digest does not match its units, it was edited; run its stage again"
            )
        return manifest


def missing(store: Store, manifest: Manifest) -> list[str]:
    """A line for each shard, or file of a model, that is not there in its size; nothing of them is read."""
    sizes = {
        entry.key: entry.bytes for entry in store.entries(shard_prefix(manifest.stage, manifest.fingerprint))
    }
    problems = []
    for done in manifest.commits:
        wanted = {done.key: done.bytes}
        folder, _, name = done.key.rpartition("/")
        if name == MARKER and done.key in sizes:
            files = marked_files(store.uri(done.key), store.get_bytes(done.key))
            wanted = {f"{folder}/{file}": int(facts["bytes"]) for file, facts in files.items()}
        for key, size in wanted.items():
            if key not in sizes:
                problems.append(f"{store.uri(key)}: missing")
            elif sizes[key] != size:
                problems.append(f"{store.uri(key)}: {sizes[key]} bytes, expected {size}")
    return problems


def verify(store: Store, manifest: Manifest) -> list[str]:
    """Reads every shard and model again; a line for each that is missing, incomplete or has changed."""
    problems = []
    for done in manifest.commits:
        try:
            if _digest_of(store, done.key) != done.sha256:
                problems.append(f"{store.uri(done.key)}: its content has changed")
        except NotFound:
            problems.append(f"{store.uri(done.key)}: missing")
        except StoreError as error:  # a model's folder that lacks a file
            problems.append(str(error))
    return problems


def _digest_of(store: Store, key: str) -> str:
    """Of a shard's bytes; of a model, which its marker stands for, over the whole folder."""
    folder, _, name = key.rpartition("/")
    return folder_digest(store.fetch_tree(folder)) if name == MARKER else sha256_file(store.fetch(key))
