"""img2dataset / WebDataset tars: the members `key.jpg`, `key.txt`, `key.json` make one sample.

Members of a sample need not stand together: readers that assume it split such samples silently (Ray #44068).
So headers are indexed first, which reads no data, and members are then read sample by sample.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from errno import EINVAL
from pathlib import Path
from typing import Any, BinaryIO

from ddt.clean import clean_text, decode_text, one_line, parse_json
from ddt.data.decode import MAX_IMAGE_BYTES
from ddt.data.readers.captions import find_caption
from ddt.data.readers.sample import TYPICAL_SAMPLE_BYTES, RawSample
from ddt.records import Reject

IMAGE_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp")
FOREIGN_EXTENSIONS = ("tif", "tiff", "avif", "heic", "heif", "jp2", "jxl", "svg", "psd", "ppm")
TEXT_EXTENSIONS = ("txt", "caption", "text")
META_EXTENSIONS = ("json",)
MAX_TEXT_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE
NOT_WHOLE, NOT_PLAIN = -1, -2  # in place of the bytes of a member that is cut off, or is a link or a device
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}

Members = dict[str, tuple[int, int]]  # extension -> (offset, bytes)

_PICTURES = "|".join(IMAGE_EXTENSIONS + FOREIGN_EXTENSIONS)
_TEXTS = "|".join(TEXT_EXTENSIONS + META_EXTENSIONS)
_KNOWN = re.compile(rf"(?:\.(?:{_PICTURES}))*\.(?:{_PICTURES}|{_TEXTS})$", re.IGNORECASE)


def read_tar(path: str | Path) -> Iterator[RawSample | Reject]:
    """Samples in the order in which their keys first appear, then what the archive's end has lost.

    A file that is no tar at all gives one Reject with reason corrupt_archive.
    """
    path = Path(path)
    index = _Index()
    index.scan(path)
    samples = whole_samples(index.samples)
    if not samples and not index.rejects:
        yield Reject("missing_image", "no picture and no text in it", key=path.name, lost=0)
    with open(path, "rb") as file:
        for key, members in samples.items():
            try:
                yield _read_sample(file, key, members)
            except Reject as reject:
                yield reject
    yield from index.repeated()
    yield from index.rejects


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) of a member; ('', '') of what belongs to no sample.

    The key ends before the last known extension: WebDataset ends it at the first dot, which makes one sample
    of `photo.0001.jpg` and `photo.0002.jpg`. Pictures' extensions before it belong to it as well
    (`a.jpg.txt` is a text of `a`). Hidden files and folders, and what macOS adds, belong to no sample.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts) or not parts:
        return "", ""
    known = _KNOWN.search(parts[-1])
    at = known.start() if known else parts[-1].rfind(".")
    if at <= 0:
        return "", ""
    return "/".join([*parts[:-1], parts[-1][:at]]), parts[-1][at + 1 :].lower()


def whole_samples(found: dict[str, Members]) -> dict[str, Members]:
    """Samples of what was found under each key: a part such as `a.seg.png` or `a.en.txt` goes to its `a`.

    A key without a picture, or without a text, is a part of the shorter one that ends at one of its dots and
    has the picture and, where the part has none, the text. What has neither and is no part is no sample.
    """
    samples = dict(found)
    for key in sorted(samples, key=lambda key: -key.count(".")):
        owner = _owner(key, samples)
        if owner is not None:
            for extension, place in samples.pop(key).items():
                samples[owner].setdefault(f"{key[len(owner) + 1 :]}.{extension}", place)
        elif not _has_picture(samples[key]) and not _has_text(samples[key]):
            del samples[key]
    return samples


def _owner(key: str, samples: dict[str, Members]) -> str | None:
    picture, text = _has_picture(samples[key]), _has_text(samples[key])
    shorter = key
    while not (picture and text) and "." in shorter.rpartition("/")[2]:
        shorter = shorter.rpartition(".")[0]
        members = samples.get(shorter, {})
        if _has_picture(members) and (text or _has_text(members)):
            return shorter
    return None


def _has_picture(members: Members) -> bool:
    return _named(members, IMAGE_EXTENSIONS + FOREIGN_EXTENSIONS, pictures_only=True) is not None


def _has_text(members: Members) -> bool:
    return _named(members, TEXT_EXTENSIONS + META_EXTENSIONS) is not None


def _named(members: Members, extensions: Sequence[str], pictures_only: bool = False) -> str | None:
    """The member with one of these extensions, the first of them first, then one that ends in it.

    With `pictures_only` nothing but pictures' extensions may stand before it: `seg.png` is a part.
    """
    for extension in extensions:
        if extension in members:
            return extension
    for extension in sorted(members):
        before, _, last = extension.rpartition(".")
        if last in extensions and not (pictures_only and not _KNOWN.fullmatch(f".{before}")):
            return extension
    return None


class _Index:
    """Where the members of each key lie; faults of the archive itself as rejects."""

    def __init__(self) -> None:
        self.samples: dict[str, Members] = {}
        self.rejects: list[Reject] = []
        self._repeats: dict[str, Counter[str]] = {}
        self._last, self._cut = "", False  # key of the last member; whether it is cut off

    def scan(self, path: Path) -> None:
        """Index all members, those of archives that were put together one after the other too."""
        size = path.stat().st_size
        with open(path, "rb") as file:
            start: int | None = 0
            while start is not None:
                start = self._scan_from(file, start, size)
        for reject in self.rejects:
            reject.place("", path.name)

    def repeated(self) -> Iterator[Reject]:
        """A reject for each key whose members are there again; the first of each name counts."""
        for key, names in self._repeats.items():
            of_pair = {e: n for e, n in names.items() if _KNOWN.fullmatch(f".{e}")}
            if of_pair:
                told = ", ".join(f"{count} more .{extension}" for extension, count in sorted(of_pair.items()))
                yield Reject("bad_record", f"repeated members: {told}", key=key, lost=max(of_pair.values()))

    def _scan_from(self, file: BinaryIO, start: int, size: int) -> int | None:
        """Index an archive that begins at `start`; where another one begins after its end, or None."""
        file.seek(start)
        read_to = start
        try:
            options: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
            with tarfile.open(fileobj=file, mode="r:", **options) as archive:
                while (member := archive.next()) is not None:
                    if archive.offset <= read_to:
                        raise tarfile.ReadError("a member of a negative size")  # it would be read for ever
                    self._add(member, size)
                    read_to = archive.offset
                end = archive.offset
            problem = _end_problem(file, end, size)
        except Exception as error:  # tarfile raises anything on hostile headers, and MemoryError
            if isinstance(error, OSError) and error.errno not in (None, EINVAL):
                raise  # the disk, not the archive; EINVAL: a place that the header makes up
            problem = _compression(file) or one_line(error)
        if not problem:
            return _next_archive(file, end)
        where = f"after sample {self._last}" if self._last else "from its beginning"
        lost = 0 if self._cut else max(1, self._samples_in(size - read_to, read_to))
        self.rejects.append(Reject("corrupt_archive", f"unreadable {where}: {problem}", lost=lost))
        return None

    def _samples_in(self, unread_bytes: int, read_bytes: int) -> int:
        """About how many samples there are in what can't be read, by the size of those that could."""
        known = len(self.samples)
        return round(unread_bytes / (max(1, read_bytes) / known if known else TYPICAL_SAMPLE_BYTES))

    def _add(self, member: tarfile.TarInfo, size: int) -> None:
        key, extension = split_name(member.name)
        if member.isdir() or not extension:
            return
        members = self.samples.setdefault(key, {})
        self._last, self._cut = key, False
        if extension in members:
            self._repeats.setdefault(key, Counter())[extension] += 1
        elif not member.isreg() or member.issparse():
            members[extension] = (0, NOT_PLAIN)
        elif member.offset_data + member.size > size:
            members[extension] = (member.offset_data, NOT_WHOLE)
            self._cut = True
        else:
            members[extension] = (member.offset_data, member.size)


def _compression(file: BinaryIO) -> str:
    """Said of a file that begins as a compressed one does, else ''."""
    file.seek(0)
    head = file.read(8)
    name = next((name for mark, name in COMPRESSED.items() if head.startswith(mark)), "")
    return f"{name}-compressed, expected a plain tar" if name else ""


def _end_problem(file: BinaryIO, offset: int, size: int) -> str:
    """Why an archive that stops at `offset` is not whole, or ''. tarfile itself stops at damage silently."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) == BLOCK and not any(block):
        return ""
    return f"{'no end marker' if offset >= size else 'damaged header'} at byte {offset}"


def _next_archive(file: BinaryIO, end: int) -> int | None:
    """Where another archive begins after the zeros at `end`: `cat a.tar b.tar` makes one file of two."""
    file.seek(end)
    while block := file.read(BLOCK):
        if any(block):
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.TarError:
                return None
            return file.tell() - BLOCK
    return None


def _read_sample(file: BinaryIO, key: str, members: Members) -> RawSample:
    planted = None
    try:
        meta, unread_meta = _meta(file, members)
        planted = meta["planted"] if isinstance(meta.get("planted"), str) else None
        extension = _named(members, IMAGE_EXTENSIONS, pictures_only=True)
        if extension is None:
            foreign = _named(members, FOREIGN_EXTENSIONS, pictures_only=True)
            if foreign:
                raise Reject("unsupported_format", f".{foreign}")
            raise Reject("missing_image", f"only {', '.join(f'.{e}' for e in sorted(members))}")
        image = _read(file, members, extension, MAX_IMAGE_BYTES)
        caption, doubt = _text(file, members), ""
        if not caption:
            caption, doubt = find_caption(meta)
        return RawSample(key, image, caption, meta, "" if caption else doubt or unread_meta)
    except Reject as reject:
        reject.place("", key, planted)
        raise


def _read(file: BinaryIO, members: Members, extension: str, most_bytes: int) -> bytes:
    """A member's bytes; raises Reject for one that is no plain file, is cut off or too long."""
    offset, size = members[extension]
    if size == NOT_PLAIN:
        raise Reject("bad_record", f".{extension} is a link or a device, expected a plain file")
    if size == NOT_WHOLE:
        raise Reject("corrupt_archive", f"the archive ends within .{extension}")
    if size > most_bytes:
        reason = "too_large" if extension in IMAGE_EXTENSIONS else "bad_record"
        raise Reject(reason, f".{extension} of {size} bytes, at most {most_bytes}")
    file.seek(offset)
    return file.read(size)


def _meta(file: BinaryIO, members: Members) -> tuple[dict[str, Any], str]:
    """The sample's JSON, and what is wrong with it: damage to it costs the metadata, not the sample."""
    extension = _named(members, META_EXTENSIONS)
    if extension is None:
        return {}, ""
    try:
        meta = parse_json(_read(file, members, extension, MAX_TEXT_BYTES))
    except (ValueError, Reject) as error:
        return {}, f".{extension}: {error}"
    return (meta, "") if isinstance(meta, dict) else ({}, f".{extension}: expected an object")


def _text(file: BinaryIO, members: Members) -> str:
    """The caption that stands in a member of its own, '' where there is none."""
    extension = _named(members, TEXT_EXTENSIONS)
    if extension is None:
        return ""
    try:
        return clean_text(decode_text(_read(file, members, extension, MAX_TEXT_BYTES)))
    except ValueError as error:
        raise Reject("bad_record", f".{extension}: {error}") from None
