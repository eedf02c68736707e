"""What is wrong with a benchmark's files or outputs: named with file and line, and counted."""

from __future__ import annotations

NAMED = 5  # of each kind; the rest is only counted


class IncompleteError(ValueError):
    """The set is not complete, so its score is not the benchmark's."""


class Problems:
    """Problems by kind. Those that `blocks` make the set incomplete; the others are only counted."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._blocking: set[str] = set()

    def add(self, kind: str, where: str, blocks: bool = True) -> None:
        """One problem; `where` names the file, and the line where there is one."""
        self._found.setdefault(kind, []).append(where)
        if blocks:
            self._blocking.add(kind)

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Each kind's number and its first places."""
        return {kind: {"count": len(places), "first": places[:NAMED]} for kind, places in self._found.items()}

    def refuse(self, allowed: str) -> None:
        """Raise IncompleteError if a kind blocks: every such kind with its first places, then the others."""
        if not self._blocking:
            return
        also = self._told(blocking=False)
        raise IncompleteError(
            f"the set is not complete: {self._told(blocking=True)}"
            + (f"; also found: {also}" if also else "")
            + f"; {allowed}"
        )

    def _told(self, blocking: bool) -> str:
        return ", ".join(
            f"{len(places)} x {kind} ({'; '.join(places[:NAMED])}{'; ...' if len(places) > NAMED else ''})"
            for kind, places in self._found.items()
            if (kind in self._blocking) == blocking
        )

    def merged(self, other: Problems) -> Problems:
        """Both together, in a new object."""
        both = Problems()
        for part in (self, other):
            for kind, places in part._found.items():
                for where in places:
                    both.add(kind, where, kind in part._blocking)
        return both
