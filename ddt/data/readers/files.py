"""Finds files where a user says they are: a file, a folder, a glob; links are followed, each folder once."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip", ".lz4")
OF_THE_SYSTEM = ("__MACOSX", "@eaDir")  # folders that macOS and NAS systems leave in others


def find_files(where: str, what: str, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes (in either case), sorted by path.

    `where` is a file, a folder, searched through its links too, or a glob of both, where `**` stands for any
    folders. What exists is taken literally, whatever characters its name has. Hidden files are left out.

    Raises ValueError, naming `what` (the key that holds `where`), where there is nothing to read, a folder
    can't be read, a link leads nowhere, or a file is compressed and not unpacked beside it.
    """
    place = Path(where).expanduser()
    is_there = bool(where) and os.path.lexists(place)
    if not is_there and not glob.has_magic(where):
        raise ValueError(f"{what}: {where} does not exist")
    wanted = " or ".join(suffixes)
    found: set[Path] = set()
    for path in _every_file([place] if is_there else _matches(place, what), what):
        if path.suffix.lower() in suffixes and path.is_file():
            found.add(path)
        elif path.suffix.lower() in suffixes and not path.exists():
            raise ValueError(f"{what}: {path} is a link to nothing")
        elif is_compressed(path, suffixes) and not _unpacked(path).exists():
            raise ValueError(f"{what}: {path} is compressed; expected it unpacked, as {wanted}")
    if not found:
        raise ValueError(f"{what}: no {wanted} file in {where}")
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is by its name the system's: `._a.tar`, `.git`, `__MACOSX`."""
    return name.startswith(".") or name in OF_THE_SYSTEM


def _every_file(places: list[Path], what: str) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from _walk(place, what)
        else:
            yield place


def _walk(root: Path, what: str) -> Iterator[Path]:
    """Files below a folder. A folder that several links lead to is looked at once, so that loops end."""

    def fail(error: OSError) -> None:
        raise ValueError(f"{what}: {error.filename} can't be read ({error.strerror})") from None

    seen = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=fail):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            inner.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        yield from (Path(folder) / name for name in files if not is_hidden(name))


def _matches(pattern: Path, what: str) -> list[Path]:
    """Files and folders that a glob means. Its leading parts are literal as long as they exist."""
    parts, base = pattern.parts, Path()
    while os.path.lexists(base / parts[0]):
        base, parts = base / parts[0], parts[1:]
    if "**" not in parts:
        return [Path(path) for path in glob.glob(str(Path(glob.escape(str(base)), *parts)))]
    first = parts.index("**")
    roots = _matches(base.joinpath(*parts[:first]), what) if first else [base]
    rest = parts[first:] if parts[-1] != "**" else (*parts[first:], "*")
    return [
        path
        for root in roots
        if root.is_dir()
        for path in _walk(root, what)
        if _fits(path.relative_to(root).parts, rest)
    ]


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or bool(names) and _fits(names[1:], pattern)
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def is_compressed(path: Path, suffixes: Sequence[str]) -> bool:
    """`a.tar.gz`, `a.jsonl.zst`, `a.tgz` of a wanted kind."""
    return path.suffix.lower() in (*COMPRESSED, ".tgz") and _unpacked(path).suffix.lower() in suffixes


def _unpacked(path: Path) -> Path:
    return path.with_suffix(".tar" if path.suffix.lower() == ".tgz" else "")
