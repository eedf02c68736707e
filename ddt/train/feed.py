"""The batches of a run in the order of its steps, made ahead in a thread on an accelerator."""

from __future__ import annotations

import time
from typing import Any

import torch

from ddt.train.batching import Batches, pinned, rows
from ddt.train.distributed import gather_objects
from ddt.train.prefetch import Prefetch
from ddt.train.spikes import BatchCursor


def prefetches(device: torch.device) -> bool:
    """Whether batches are made in a thread: on a CPU it would take the cores that the step computes on."""
    return device.type != "cpu"


class Feed:
    """This process's slices of the global batches. `cursor` says which batch a step takes, and may be set.

    `waited_s` are the seconds spent waiting for batches, counted on until it is set to zero.
    """

    def __init__(
        self, batches: Batches, steps: int, global_batch: int, rank: int, world: int, device: torch.device
    ) -> None:
        self._batches, self._steps, self._global_batch = batches, steps, global_batch
        self._rank, self._world, self._device = rank, world, device
        self._prefetch = Prefetch(self._make) if prefetches(device) else None
        self._slices_equal = False
        self.cursor = BatchCursor()
        self.waited_s = 0.0

    def get(self, step: int) -> Any:
        """The batch of `step`; ValueError where processes get unequal slices."""
        started = time.monotonic()
        index = self.cursor.batch_of(step)
        if self._prefetch is None:
            batch = self._make(index)
        else:
            following = None if step + 1 == self._steps else self.cursor.batch_of(step + 1)
            batch = self._prefetch.get(index, following)
        self._check_slices(rows(batch))
        self.waited_s += time.monotonic() - started
        return batch

    def close(self) -> None:
        """Ends the thread that makes batches, if there is one."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _make(self, index: int) -> Any:
        batch = self._batches.batch(index, self._rank, self._world)
        return pinned(batch) if self._device.type == "cuda" else batch

    def _check_slices(self, own: int) -> None:
        """Asked once, since it takes a gather."""
        if not self._slices_equal and len(sizes := set(gather_objects(own))) > 1:
            raise ValueError(
                f"global_batch = {self._global_batch}: {self._world} processes get slices of "
                f"{min(sizes)} to {max(sizes)} rows; expected equal ones"
            )
        self._slices_equal = True
