"""What every store can do, and the key rules they share.

A store is a flat map from keys ("shards/ingest/ab12.arrow") to immutable bytes. Two kinds exist: a folder
and an S3 prefix. Nothing is ever visible half-written: a put either happened or did not.
"""

from __future__ import annotations

import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

READ_CHUNK_BYTES = 1 << 20


class StoreError(ValueError):
    """A store that cannot be used as asked; the message is one line that names the place and the reason."""


class NotFound(StoreError):
    """The key asked for does not exist."""


def check_key(key: str) -> str:
    """Returns `key` if it is a relative POSIX path of plain segments; keys never leave the store's root.

    Segments that begin with a dot are the store's own (temporary files, probes).
    """
    segments = key.split("/")
    if not key or any(not s or s.startswith(".") or "\\" in s or "\0" in s for s in segments):
        raise StoreError(f"store key {key!r}: want 'a/b/c', no segment empty or beginning with a dot")
    return key


def unique_name() -> str:
    """A file name that no other writer uses."""
    return uuid.uuid4().hex


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(READ_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """What lies under a key; `modified` is in seconds since 1970, by the store's own clock.

    version: of an object in S3 its ETag, '' of a file.
    """

    key: str
    bytes: int
    modified: float
    version: str = ""


class Store(ABC):
    """Bytes by key. Instances are small and picklable: workers get them as they are."""

    root_uri: str

    @abstractmethod
    def put_bytes(self, key: str, data: bytes) -> str:
        """Writes `data` under `key`, replacing what was there; returns the URI."""

    @abstractmethod
    def get_bytes(self, key: str) -> bytes:
        """The bytes under `key`; raises NotFound."""

    @abstractmethod
    def put_file(self, key: str, path: str | Path) -> str:
        """Copies a local file to `key`, replacing what was there; returns the URI."""

    @abstractmethod
    def fetch(self, key: str) -> Path:
        """A local path with the bytes of `key`, to be read only; raises NotFound.

        A folder store answers with its own file; S3 with a cached copy of the current version.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """The bytes of `key` as a file to read and seek in; raises NotFound.

        For a few columns or rows of a large shard: of an object in S3 only what is read is fetched.
        """

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes `data` only if `key` does not exist, else False. Of many callers exactly one gets True; none
        on S3, where the answer to that one was lost. What is there then tells whose it is.
        """

    @abstractmethod
    def entries(self, prefix: str = "") -> list[Entry]:
        """All keys that start with the string `prefix`, sorted, with size and time of the last change."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """All keys that start with the string `prefix`, sorted."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether `key` is there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes `key`; nothing happens where it is absent."""

    @abstractmethod
    def put_tree(self, prefix: str, folder: str | Path) -> str:
        """Copies a complete folder (see ddt.store.tree) under `prefix`, its marker last; returns the URI.

        Trees are immutable: the same content again is a no-op, other content is a StoreError.
        """

    @abstractmethod
    def fetch_tree(self, prefix: str) -> Path:
        """A local folder with the tree under `prefix`; raises StoreError where the tree is not complete."""

    def uri(self, key: str) -> str:
        """Where `key` lives, for people and for logs."""
        return f"{self.root_uri}/{check_key(key)}"

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The bytes of several small keys."""
        return {key: self.get_bytes(key) for key in keys}
