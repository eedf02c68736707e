"""Which units of a stage are at work, and how often each has lost its worker: in the key-value store of Ray.

A unit that was begun and not ended when it is begun again has taken its worker's process along, or its node
was lost. Ray itself would give it to a new worker without end.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

NAMED = 5  # units at work that a message names


@dataclass(frozen=True)
class Ledger:
    """Of one pass of a stage, known to its workers and its driver by `prefix`."""

    prefix: str

    @classmethod
    def new(cls) -> Ledger:
        return cls(f"ddt-units/{uuid4().hex}/")

    def begin(self, unit: str, name: str) -> int:
        """A worker takes the unit up; how often it has lost its worker so far."""
        found = _internal_kv_get(self.prefix + unit)
        before: dict[str, Any] = json.loads(found) if found else {"losses": 0, "since": None}
        losses: int = before["losses"] + (before["since"] is not None)
        self._put(unit, {"losses": losses, "since": time.time(), "name": name})
        return losses

    def end(self, unit: str) -> None:
        """The worker has an answer for the unit."""
        entry = json.loads(_internal_kv_get(self.prefix + unit))
        self._put(unit, entry | {"since": None})

    def at_work(self) -> str:
        """The units that are begun and not ended, in words, the longest at work first."""
        found = [json.loads(_internal_kv_get(key)) for key in _internal_kv_list(self.prefix)]
        working = sorted((e["since"], e["name"]) for e in found if e["since"] is not None)
        named = [f"{name} ({time.time() - since:.0f} s)" for since, name in working[:NAMED]]
        more = f" and {len(working) - NAMED} more" if len(working) > NAMED else ""
        return f"at work: {', '.join(named)}{more}" if named else "no worker has taken a unit up"

    def close(self) -> None:
        """Forget it all."""
        _internal_kv_del(self.prefix, del_by_prefix=True)

    def _put(self, unit: str, entry: dict[str, object]) -> None:
        _internal_kv_put(self.prefix + unit, json.dumps(entry))
