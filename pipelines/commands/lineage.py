"""What was made from what: the manifests that a store keeps, each with the keys of those it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

from ddt.manifest import KEY_OF_MANIFEST, MANIFESTS, Manifest
from ddt.store import NotFound, Store
from pipelines.engine.graph import INPUTS, STAGES

SHORT = 16  # digits of a digest that are shown: `ddt trace` takes 8


@dataclass(frozen=True)
class Link:
    """One manifest of a lineage by its key, or why it is not there."""

    key: str
    manifest: Manifest | None
    fault: str | None = None
    damaged: bool = False  # there is something else in its place

    @property
    def stage(self) -> str:
        return self.key.split("/")[1]

    @property
    def digest(self) -> str:
        return self.key.split("/")[2]

    def unknown(self) -> list[str]:
        """Stages that this one reads and does not say by which key, as an earlier release left it."""
        made_from = self.manifest.made_from if self.manifest else INPUTS[self.stage]
        return [name for name in INPUTS[self.stage] if name not in made_from]


def lineage(store: Store, keys: Iterable[str], known: Iterable[Link] = ()) -> list[Link]:
    """The manifests at `keys` and all that these go back to, in the order of the stages, with those `known`.

    What has no manifest's key is left out. Nothing is raised for what is missing: its link says so.
    """
    found = {link.key: link for link in known}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if is_key(key) and key not in found:
            found[key] = link = _link(store, key)
            waiting += link.manifest.made_from.values() if link.manifest else ()
    return sorted(found.values(), key=lambda link: (STAGES.index(link.stage), link.key))


def is_key(key: object) -> TypeGuard[str]:
    """Whether it is a key of a stage's manifest."""
    match = KEY_OF_MANIFEST.fullmatch(key) if isinstance(key, str) else None
    return match is not None and match[1] in STAGES


def _link(store: Store, key: str) -> Link:
    try:
        return Link(key, Manifest.kept(store, key))
    except (ValueError, TypeError, AttributeError) as error:  # the last two of JSON in another shape
        gone = isinstance(error, ValueError) and isinstance(error.__context__, NotFound)
        told = str(error) if store.root_uri in str(error) else f"{store.uri(key)}: {error}"
        return Link(key, None, told, damaged=not gone)


def keys_of_digest(store: Store, beginning: str) -> list[str]:
    """Keys of the manifests whose digest begins so. ValueError where there are none, or several digests."""
    keys = [key for stage in STAGES for key in store.list(f"{MANIFESTS}{stage}/{beginning}") if is_key(key)]
    digests = sorted({key.split("/")[2] for key in keys})
    if not digests:
        raise ValueError(f"{beginning}: no manifest in {store.root_uri} has a digest that begins so")
    if len(digests) > 1:
        some = ", ".join(digest[: len(beginning) + 8] for digest in digests[:3])
        raise ValueError(f"{beginning}: {len(digests)} digests begin so ({some}); give more of it")
    return keys


def keys_of(store: Store, stage: str, digest: str, fingerprint: str) -> list[str]:
    """Keys of the manifests of this content that this computation made, of whatever inputs."""
    links = [_link(store, key) for key in store.list(f"{MANIFESTS}{stage}/{digest}/") if is_key(key)]
    return [link.key for link in links if link.manifest and link.manifest.fingerprint == fingerprint]
