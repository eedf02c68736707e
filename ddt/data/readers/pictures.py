"""A picture as data name it: its bytes, a path, a data: URI, or one of these in a struct or a list."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from ddt.data.decode import MAX_IMAGE_BYTES
from ddt.records import Reject

MOST_CHARS = 4096  # of a path, as Linux has it
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)
# What is wrong with one name. Other errors are the disk's, may pass, and end the unit.
_OF_THE_NAME = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM,
    errno.EINVAL,
)  # fmt: skip


class Pictures:
    """Pictures that data name, their paths below `folder`.

    Names must not lead out of the folder; links in it are the user's own and may (Hugging Face's cache is
    made of them).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = os.path.abspath(folder)

    def read(self, value: Any) -> bytes:
        """The encoded picture; raises Reject where there is none or it is not to be read."""
        value = _inner(value)
        if isinstance(value, str):
            data = _of_uri(value) if _DATA.match(value) else self._of_file(value)
        else:
            data = value or b""
        if not data:
            raise Reject("missing_image", "no image bytes")
        if len(data) > MAX_IMAGE_BYTES:
            raise Reject("too_large", f"{len(data)} bytes, at most {MAX_IMAGE_BYTES}")
        return data

    def state(self, value: Any) -> tuple[int, int] | None:
        """Size in bytes and time in ns of the last change of the file that is named; None for no file."""
        try:
            name = _inner(value)
            found = os.stat(self._found(name)) if isinstance(name, str) else None
        except (Reject, OSError):
            found = None
        if found is None:
            return None
        return found.st_size, found.st_mtime_ns

    def _of_file(self, name: str) -> bytes:
        path = self._found(name)
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise Reject("missing_image", f"no file {name!r}")
            if found.st_size > MAX_IMAGE_BYTES:
                raise Reject("too_large", f"{name!r}: more than {MAX_IMAGE_BYTES} bytes")
            return Path(path).read_bytes()
        except OSError as error:
            if error.errno not in _OF_THE_NAME:
                raise
            is_absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
            detail = f"no file {name!r}" if is_absent else f"{name!r}: {error.strerror}"
            raise Reject("missing_image", detail) from None

    def _found(self, name: str) -> str:
        """The path of a name as it is, or as Windows or macOS write it where that is there."""
        if len(name) > MOST_CHARS:
            raise Reject("missing_image", f"a name of {len(name)} characters, expected a path")
        path = self._path(name)
        forms = (name.replace("\\", "/"), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        there = (other for other in map(self._path, forms) if os.path.lexists(other))
        return path if os.path.lexists(path) else next(there, path)

    def _path(self, name: str) -> str:
        if not _is_name(name):
            raise Reject("bad_record", f"image {name!r}: expected a path")
        if _ADDRESS.match(name):
            raise Reject("missing_image", f"{name!r} is an address, expected a path")
        path = os.path.normpath(os.path.join(self.folder, name))
        if not path.startswith(os.path.join(self.folder, "")):
            raise Reject("bad_record", f"image {name!r} lies outside the folder of images")
        return path


def _inner(value: Any) -> bytes | str | None:
    """What a struct or a list of one picture holds; raises Reject where that is none, or several."""
    while value and not isinstance(value, bytes | str):
        if isinstance(value, list):
            there = [item for item in value if item]
            if len(there) > 1:
                raise Reject("bad_record", f"{len(there)} images, expected one")
            value = there[0] if there else None
        elif isinstance(value, dict) and {"bytes", "path"} & value.keys():  # as Hugging Face writes it
            value = value.get("bytes") or value.get("path")
        elif isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
        else:
            raise Reject("bad_record", f"an image of type {type(value).__name__}, expected bytes or a path")
    return value or None


def _of_uri(uri: str) -> bytes:
    found = _DATA.match(uri)
    assert found is not None
    body = uri[found.end() :]
    if not found[1].lower().endswith(";base64"):
        return unquote_to_bytes(body)
    plain = "".join(body.split()).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters that are not ASCII
        raise Reject("bad_record", "a data: URI that is not base64") from None


def _is_name(name: str) -> bool:
    """Whether a file can be called that: no null byte, and no half of a character."""
    try:
        return "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False
