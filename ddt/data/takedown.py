"""A takedown list: samples that must not be in a data set, by digest or by where they came from.

One entry a line; what follows a `#` at its beginning or after a blank is a comment:

    0a1b...    64 hex digits: a sample's id, or the sha256 of an image's bytes
    https://example.com/photos/*    the source's url, `*` standing for anything; case does not count
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from ddt.clean import decode_text, one_line

DIGEST = re.compile(r"[0-9a-f]{64}")
COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True)
class Takedown:
    """What a list names, and the digest of its file."""

    digests: frozenset[str]
    urls: tuple[str, ...]
    digest: str

    @classmethod
    def read(cls, path: str | Path, what: str = "takedown") -> Self:
        """Of a file; ValueError naming `what`, the file and the line that is no entry, or that none is."""
        try:
            data = Path(path).read_bytes()
            lines = decode_text(data).splitlines()
        except FileNotFoundError:
            raise ValueError(f"{what}: {path}: no such file") from None
        except OSError as error:
            raise ValueError(f"{what}: {path}: can't be read ({error.strerror})") from None
        except ValueError as error:
            raise ValueError(f"{what}: {path}: {error}") from None
        digests, urls = set(), []
        for number, line in enumerate(lines, 1):
            entry = COMMENT.sub("", line).strip().lower()
            if DIGEST.fullmatch(entry):
                digests.add(entry)
            elif "://" in entry or ("*" in entry and entry.strip("*")):
                urls.append(entry)
            elif entry:
                shown = one_line(entry, 60)
                raise ValueError(
                    f"{what}: {path} line {number}: {shown!r}: expected 64 hex digits (of a sample or an "
                    "image's bytes), or a URL with :// or *"
                )
        if not digests and not urls:
            raise ValueError(f"{what}: {path}: no entry in it")
        return cls(frozenset(digests), tuple(dict.fromkeys(urls)), hashlib.sha256(data).hexdigest())

    def names(self, digests: Sequence[str]) -> np.ndarray:
        """bool[n]: which of these digests it has, of samples or of images."""
        return np.fromiter((digest in self.digests for digest in digests), bool, len(digests))

    def has_urls(self, urls: Sequence[str | None]) -> np.ndarray:
        """bool[n]: which of these urls one of its patterns fits; None where none is known."""
        found = (url is not None and self._pattern.fullmatch(url.lower()) is not None for url in urls)
        return np.fromiter(found, bool, len(urls))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(".*".join(map(re.escape, url.split("*"))) for url in self.urls))
