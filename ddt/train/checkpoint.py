"""Checkpoints of a training run in a store: safetensors and JSON, complete or not there at all.

A checkpoint is one immutable tree `<prefix>/step-<step>-<rewinds>`. After a rewind the count of rewinds goes
up, and what the abandoned branch saved later than the point it went back to no longer counts.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from ddt.store import MARKER, Store, mark_complete, open_store
from ddt.store.tree import Files, marker_bytes, tree_files
from ddt.train.distributed import gather_objects, rank_and_world
from ddt.train.parallel import is_sharded
from ddt.train.sharded_files import load_shards, load_whole, save_shards, stored_tensors
from ddt.train.state import check_same

NAME = re.compile(r"step-(\d+)-(\d+)")
STATE_FILE = "state.json"

WHOLE_FILE = "model.safetensors"

Groups = Mapping[str, Mapping[str, Tensor]]


class Position(NamedTuple):
    """Which checkpoint: later rewinds first, then later steps."""

    rewinds: int
    step: int

    @property
    def name(self) -> str:
        return f"step-{self.step:09d}-{self.rewinds:03d}"


class Checkpoints:
    """The checkpoints of one run, under `prefix` of a store (or of a folder, given by its path)."""

    def __init__(self, store: Store | str | Path, prefix: str = "checkpoints") -> None:
        self.store = store if isinstance(store, Store) else open_store(store)
        self.prefix = prefix.rstrip("/")

    def positions(self) -> list[Position]:
        """The complete checkpoints of the run's present branch, oldest first."""
        found = self._found()
        started: dict[int, int] = {}
        for position in found:
            started[position.rewinds] = min(position.step, started.get(position.rewinds, position.step))
        return [p for p in found if all(p.step < first for r, first in started.items() if r > p.rewinds)]

    def latest(self) -> Position | None:
        """The newest complete checkpoint, None where there is none."""
        return max(self.positions(), default=None)

    def before(self, step: int) -> Position:
        """The newest checkpoint not later than `step`; the oldest one where all are later.

        Raises ValueError where there is no checkpoint at all.
        """
        positions = self.positions()
        if not positions:
            raise ValueError(f"{self.store.root_uri}/{self.prefix}: no complete checkpoint")
        earlier = [p for p in positions if p.step <= step]
        return max(earlier) if earlier else min(positions, key=lambda p: p.step)

    def save(
        self,
        position: Position,
        groups: Groups,
        state: Mapping[str, Any],
        keep: int,
        rewind_steps: int | None = None,
    ) -> None:
        """Writes a checkpoint, then removes the ones no longer needed. Every process must call it.

        Each of `groups` becomes a folder of safetensors: one file by rank 0 or, where tensors are spread over
        processes, one by each process. `state` is plain JSON. The newest `keep` stay, and, given
        `rewind_steps`, all since the newest one that is at least so many steps older than this.
        """
        rank = rank_and_world()[0]
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
            folder = Path(name)
            if rank == 0:
                (folder / STATE_FILE).write_text(json.dumps(dict(state), indent=1))
            if any(is_sharded(tensors.values()) for tensors in groups.values()):
                self._save_shards(position, groups, folder)
            elif rank == 0:
                for group, tensors in groups.items():
                    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                    (folder / group).mkdir()
                    save_file(plain, folder / group / WHOLE_FILE)
                mark_complete(folder)
                self.store.put_tree(f"{self.prefix}/{position.name}", folder)
        if rank == 0:
            self._prune(position, keep, rewind_steps)

    def _save_shards(self, position: Position, groups: Groups, folder: Path) -> None:
        """Each process puts its own files; the marker that lists them all comes last, from rank 0."""
        for group, tensors in groups.items():
            save_shards(folder / group, tensors)
        files = tree_files(folder)
        for name in files:
            self.store.put_file(f"{self.prefix}/{position.name}/{name}", folder / name)
        everyone: Files = {}
        for part in gather_objects(files):
            everyone |= part
        if rank_and_world()[0] == 0:
            self.store.put_bytes(f"{self.prefix}/{position.name}/{MARKER}", marker_bytes(everyone))

    def load(self, position: Position) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The tensors by group and name, whole and on the CPU, and the state."""
        folder = self._folder(position)
        found = sorted({path.parent for path in folder.glob("*/*.safetensors")})
        groups = {
            group.name: load_file(group / WHOLE_FILE) if (group / WHOLE_FILE).is_file() else load_whole(group)
            for group in found
        }
        return groups, json.loads((folder / STATE_FILE).read_text())

    def load_into(self, position: Position, groups: Groups) -> dict[str, Any]:
        """Fills the tensors of `groups` in place, each process only what it holds of them; the state."""
        folder = self._folder(position)
        for group, targets in groups.items():
            check_same(stored_tensors(folder / group), targets)
            load_shards(folder / group, targets)
        return json.loads((folder / STATE_FILE).read_text())

    def stored(self, position: Position, group: str) -> dict[str, Tensor]:
        """Names of a group's tensors, with tensors of their shapes that hold no data."""
        return stored_tensors(self._folder(position) / group)

    def _folder(self, position: Position) -> Path:
        return self.store.fetch_tree(f"{self.prefix}/{position.name}")

    def _found(self) -> list[Position]:
        keys = self.store.list(f"{self.prefix}/")
        names = (key.split("/")[-2] for key in keys if key.endswith(f"/{MARKER}"))
        matches = filter(None, map(NAME.fullmatch, names))
        return sorted(Position(int(match[2]), int(match[1])) for match in matches)

    def _prune(self, newest: Position, keep: int, rewind_steps: int | None) -> None:
        branch = sorted(self.positions(), key=lambda p: p.step)
        kept = set(branch[-keep:])
        if rewind_steps is not None:
            # Those between must stay too: each will be the one to go back to as training goes on.
            oldest = self.before(newest.step - rewind_steps)
            kept |= {position for position in branch if position.step >= oldest.step}
        for position in self._found():
            if position not in kept:
                self._delete(position)

    def _delete(self, position: Position) -> None:
        folder = f"{self.prefix}/{position.name}"
        keys = self.store.list(f"{folder}/")
        for key in sorted(keys, key=lambda key: not key.endswith(MARKER)):  # the marker goes first
            self.store.delete(key)
