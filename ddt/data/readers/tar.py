"""img2dataset / WebDataset tars: the members `key.jpg`, `key.txt`, `key.json` make one sample.

Members of a sample need not stand together: readers that assume it split such samples silently (Ray #44068).
So headers are indexed first, which reads no data, and members are then read sample by sample.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ddt.data.readers.sample import MAX_IMAGE_BYTES, RawSample
from ddt.records import Reject

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
FOREIGN_EXTENSIONS = ("tif", "tiff", "avif", "heic", "jp2", "jxl", "svg", "psd", "ppm")
TEXT_EXTENSIONS = ("txt", "caption", "text")
MAX_TEXT_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE

Members = dict[str, tuple[int, int]]  # extension -> (offset, bytes)


def read_tar(path: str | Path) -> Iterator[RawSample | Reject]:
    """Samples in the order in which their keys first appear, then what the archive's end has lost.

    A file that is no tar at all gives one Reject with reason corrupt_archive.
    """
    path = Path(path)
    index = _Index()
    index.scan(path)
    with open(path, "rb") as file:
        for key, members in index.samples.items():
            try:
                yield _read_sample(file, key, members)
            except Reject as reject:
                yield reject
    yield from index.rejects


class _Index:
    """Where the members of each sample lie; faults of the archive itself as rejects."""

    def __init__(self) -> None:
        self.samples: dict[str, Members] = {}
        self.rejects: list[Reject] = []

    def scan(self, path: Path) -> None:
        size = path.stat().st_size
        key = ""
        try:
            with tarfile.open(path, "r:") as archive:
                while (member := archive.next()) is not None:
                    key = self._add(member, size) or key
                problem = _end_problem(path, archive.offset, size)
        except (
            tarfile.TarError,
            OSError,
            ValueError,
            EOFError,
        ) as error:  # ValueError: hostile header fields
            problem = " ".join(str(error).split()) or type(error).__name__
        if problem:
            where = f"after sample {key}" if key else "from its beginning"
            self.rejects.append(Reject("corrupt_archive", f"unreadable {where}: {problem}", key=path.name))

    def _add(self, member: tarfile.TarInfo, size: int) -> str:
        """Notes a member; returns the sample's key, '' for what belongs to no sample."""
        key, extension = _split(member.name)
        if member.isdir() or not extension:
            return ""
        if not member.isreg() or member.issparse():
            self.rejects.append(Reject("bad_record", f"{member.name}: not a plain file", key=key))
            return key
        members = self.samples.setdefault(key, {})
        if extension in members:
            self.rejects.append(Reject("bad_record", f"{member.name}: a second member of this name", key=key))
        elif member.offset_data + member.size > size:
            members[extension] = (member.offset_data, -1)
        else:
            members[extension] = (member.offset_data, member.size)
        return key


def _split(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last path segment, the extension follows."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""


def _end_problem(path: Path, offset: int, size: int) -> str:
    """Why an archive that stops at `offset` is not whole, or ''. tarfile itself stops at damage silently."""
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read(BLOCK)
    if len(block) == BLOCK and not any(block):
        return ""
    return f"{'no end marker' if offset >= size else 'damaged header'} at byte {offset}"


def _read_sample(file: BinaryIO, key: str, members: Members) -> RawSample:
    meta = _meta(_read(file, key, members, "json", MAX_TEXT_BYTES))
    planted = meta.get("planted") if isinstance(meta.get("planted"), str) else None
    try:
        extension = next((e for e in IMAGE_EXTENSIONS if e in members), None)
        if extension is None:
            foreign = next((e for e in FOREIGN_EXTENSIONS if e in members), None)
            if foreign:
                raise Reject("unsupported_format", f".{foreign}")
            raise Reject("missing_image", f"only {', '.join(f'.{e}' for e in sorted(members))}")
        image = _read(file, key, members, extension, MAX_IMAGE_BYTES)
        return RawSample(key, image, _caption(file, key, members, meta), meta)
    except Reject as reject:
        reject.key, reject.planted = key, planted
        raise


def _read(file: BinaryIO, key: str, members: Members, extension: str, most_bytes: int) -> bytes:
    """A member's bytes, b'' where there is none; raises Reject for one that is cut off or too long."""
    offset, size = members.get(extension, (0, 0))
    if size < 0:
        raise Reject("corrupt_archive", f"the archive ends within .{extension}", key=key)
    if size > most_bytes:
        reason = "too_large" if extension in IMAGE_EXTENSIONS else "bad_record"
        raise Reject(reason, f".{extension} of {size} bytes, at most {most_bytes}", key=key)
    file.seek(offset)
    return file.read(size)


def _meta(data: bytes) -> dict[str, Any]:
    """The sample's JSON; damage to it costs the metadata, not the sample."""
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _caption(file: BinaryIO, key: str, members: Members, meta: dict[str, Any]) -> str:
    extension = next((e for e in TEXT_EXTENSIONS if e in members), None)
    if extension:
        return _read(file, key, members, extension, MAX_TEXT_BYTES).decode("utf-8", errors="replace")
    caption = meta.get("caption")
    return caption if isinstance(caption, str) else ""
