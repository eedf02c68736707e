"""A store under an S3 prefix, on AWS or any compatible endpoint (AWS_ENDPOINT_URL), through boto3.

A PUT is atomic there; "only if absent" is the conditional PUT (If-None-Match: *), checked once per process
because an endpoint that ignores the header would let two workers both win.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from ddt.clean import one_line
from ddt.store.base import Entry, NotFound, Store, StoreError, check_key, sha256_file, unique_name
from ddt.store.cache import make_room, mark_used
from ddt.store.tree import MARKER, files_digest, marker_bytes, require_complete, tree_files

THREADS = 16
CONFLICT_RETRIES = 5
READ_TRIES, READ_AGAIN_AFTER_S = 4, 0.5  # and longer each time
LOOK_AT_CACHE_BYTES = 1 << 30  # downloaded since it was last seen how large the cache is
READ_AHEAD_BYTES = 1 << 16  # of a part of an object: what describes a batch of columns is read at once


def default_cache_dir() -> Path:
    """Where copies of remote objects go unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ddt-llama"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def _clear_errors(place: str) -> Iterator[None]:
    """Turns boto3's errors into one line that names the place; secrets are never part of these messages."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in ("404", "NoSuchKey"):
            raise NotFound(f"{place}: not found") from error
        reason = {
            "NoSuchBucket": "the bucket does not exist",
            "403": "access denied",
            "AccessDenied": "access denied",
        }.get(code, f"S3 answered {code}: {error.response.get('Error', {}).get('Message', '')}")
        raise StoreError(f"{place}: {reason}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StoreError(one_line(f"{place}: {error}")) from error
    except OSError as error:
        raise StoreError(f"{place}: {error}") from error


class _Ranges(io.RawIOBase):
    """An object as a file: every read is one request for these bytes alone."""

    def __init__(self, store: S3Store, key: str, size: int, etag: str) -> None:
        self.store, self.key, self.size, self.etag = store, key, size, etag
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        data = self.store.read_range(
            self.key, self.place, min(self.size, self.place + len(buffer)), self.etag
        )
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


class S3Store(Store):
    """Keys are object names under s3://bucket/prefix. Fetched objects are cached by key and version."""

    def __init__(self, uri: str, cache_dir: str | Path | None = None) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise StoreError(f"{uri}: want s3://bucket or s3://bucket/prefix")
        if "@" in bucket or ":" in bucket:
            place = f"s3://***@{bucket.rpartition('@')[2]}"
            raise StoreError(f"{place}: want s3://bucket/prefix, and credentials from the AWS chain alone")
        if importlib.util.find_spec("boto3") is None:
            raise StoreError(f"{uri}: a store on S3 needs boto3: pip install 'ddt-llama[pipeline]'")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.root_uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.cache_dir = Path(cache_dir) if cache_dir else default_cache_dir()
        self._connection: Any = None
        self._conditional_put_works = False
        self._unseen_bytes = LOOK_AT_CACHE_BYTES

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}  # sockets stay in their process

    @property
    def _client(self) -> Any:
        if self._connection is None:
            import boto3
            from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=10,
                max_pool_connections=THREADS,
            )
            # S3-compatible endpoints want some region in the signature; AWS itself redirects to the right one
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            with _clear_errors(self.root_uri):
                self._connection = boto3.session.Session().client("s3", config=config, region_name=region)
        return self._connection

    def _name(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}

    def put_bytes(self, key: str, data: bytes) -> str:
        with _clear_errors(self.uri(key)):
            self._client.put_object(**self._name(key), Body=data)
        return self.uri(key)

    def get_bytes(self, key: str) -> bytes:
        with _clear_errors(self.uri(key)):
            return self._read(**self._name(key))

    def _read(self, **call: str) -> bytes:
        """What `get_object` answers. A body that breaks off is asked for again: botocore's own retries end
        with the headers.
        """
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        for tries in range(1, READ_TRIES):
            try:
                return self._client.get_object(**call)["Body"].read()
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                time.sleep(READ_AGAIN_AFTER_S * tries)
        return self._client.get_object(**call)["Body"].read()

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        self._client  # noqa: B018  made before the threads: creating clients is not thread-safe
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(keys, pool.map(self.get_bytes, keys), strict=True))

    def put_file(self, key: str, path: str | Path) -> str:
        with _clear_errors(self.uri(key)):
            self._client.upload_file(str(path), **self._name(key))
        return self.uri(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with _clear_errors(self.uri(key)):
            self._check_conditional_put()
            return self._put_new(self._name(key), data)

    def _put_new(self, name: dict[str, str], data: bytes) -> bool:
        from botocore.exceptions import ClientError

        for _ in range(CONFLICT_RETRIES):
            try:
                self._client.put_object(**name, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412"):
                    return False
                if _code(error) != "ConditionalRequestConflict":  # 409: another writer is at it, look again
                    raise
        raise StoreError(f"{self.bucket}/{name['Key']}: contested, gave up after {CONFLICT_RETRIES} attempts")

    def _check_conditional_put(self) -> None:
        if self._conditional_put_works:
            return
        probe = {"Bucket": self.bucket, "Key": self.prefix + ".conditional-put-probe"}
        if self._put_new(probe, b"") and self._put_new(probe, b""):
            raise StoreError(f"{self.root_uri}: the endpoint ignores If-None-Match; commits need it")
        self._conditional_put_works = True

    def version(self, key: str) -> str:
        """The object's ETag: changes with its content."""
        with _clear_errors(self.uri(key)):
            return self._client.head_object(**self._name(key))["ETag"].strip('"')

    def fetch(self, key: str, version: str | None = None) -> Path:
        """As every store has it; `version`: the ETag that the object had when it was listed."""
        version = version or self.version(key)
        place = sha256(f"{self.uri(key)}\n{version}".encode()).hexdigest()[:32]
        path = self.cache_dir / place / key.rpartition("/")[2]
        if path.is_file():
            mark_used(path)
        else:
            self.download(key, path, version)
            self._keep_cache_small(path.stat().st_size)
        return path

    def download(self, key: str, path: Path, version: str) -> None:
        """Copies the object of that ETag to `path`. Raises StoreError, naming it, where it has changed."""
        self._require_version(key, version)
        self._download(key, path)
        try:
            self._require_version(key, version)  # what was copied may be the next one
        except StoreError:
            path.unlink()
            raise

    def _require_version(self, key: str, version: str) -> None:
        found = self.version(key)
        if found != version:
            raise StoreError(
                f"{self.uri(key)}: has changed since it was listed (ETag {found}, not {version}); run again"
            )

    def _keep_cache_small(self, new_bytes: int) -> None:
        self._unseen_bytes += new_bytes
        if self._unseen_bytes >= LOOK_AT_CACHE_BYTES:
            self._unseen_bytes = 0
            make_room(self.cache_dir)

    def _download(self, key: str, path: Path) -> None:
        temporary = path.parent / f".{unique_name()}"
        with _clear_errors(self.uri(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._client.download_file(self.bucket, self.prefix + key, str(temporary))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        with _clear_errors(self.uri(key)):
            facts = self._client.head_object(**self._name(key))
        return io.BufferedReader(_Ranges(self, key, facts["ContentLength"], facts["ETag"]), READ_AHEAD_BYTES)

    def read_range(self, key: str, start: int, stop: int, etag: str) -> bytes:
        """Bytes start..stop-1 of an object that still has this ETag; of none, none."""
        if start >= stop:
            return b""
        with _clear_errors(self.uri(key)):
            part = f"bytes={start}-{stop - 1}"
            return self._read(**self._name(key), Range=part, IfMatch=etag)

    def exists(self, key: str) -> bool:
        try:
            self.version(key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        with _clear_errors(self.uri(key)):
            self._client.delete_object(**self._name(key))

    def entries(self, prefix: str = "") -> list[Entry]:
        with _clear_errors(f"{self.root_uri}/{prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            found = [
                Entry(
                    item["Key"][len(self.prefix) :],
                    item["Size"],
                    item["LastModified"].timestamp(),
                    item["ETag"].strip('"'),
                )
                for page in pages
                for item in page.get("Contents", ())
            ]
        named = [e for e in found if not any(s.startswith(".") or not s for s in e.key.split("/"))]
        return sorted(named, key=lambda entry: entry.key)

    def list(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def put_tree(self, prefix: str, folder: str | Path) -> str:
        source = require_complete(folder)
        files, marker = tree_files(source), f"{check_key(prefix)}/{MARKER}"
        if self.exists(marker):
            if json.loads(self.get_bytes(marker))["digest"] != files_digest(files):
                raise StoreError(f"{self.uri(prefix)}: holds another complete folder; these never change")
            return self.uri(prefix)
        for name in files:
            self.put_file(f"{prefix}/{name}", source / name)
        self.put_bytes(marker, marker_bytes(files))
        return self.uri(prefix)

    def fetch_tree(self, prefix: str) -> Path:
        try:
            marker = json.loads(self.get_bytes(f"{check_key(prefix)}/{MARKER}"))
        except NotFound as error:
            raise StoreError(f"{self.uri(prefix)}: incomplete or absent, it has no {MARKER}") from error
        target = self.cache_dir / "trees" / marker["digest"]
        if (target / MARKER).is_file():
            mark_used(target / MARKER)
            return target
        temporary = self.cache_dir / "trees" / f".{unique_name()}"
        try:
            for name, facts in marker["files"].items():
                self._download(f"{prefix}/{check_key(name)}", temporary / name)
                if sha256_file(temporary / name) != facts["sha256"]:
                    raise StoreError(f"{self.uri(prefix)}/{name}: its content is not what {MARKER} says")
            temporary.mkdir(parents=True, exist_ok=True)
            (temporary / MARKER).write_bytes(marker_bytes(marker["files"]))
            with contextlib.suppress(FileExistsError, OSError):  # another process fetched the same tree first
                os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._keep_cache_small(sum(facts["bytes"] for facts in marker["files"].values()))
        return require_complete(target)
