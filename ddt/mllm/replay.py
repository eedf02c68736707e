"""A step that is recorded as a CUDA graph and replayed.

Starting the kernels of a one-token step one by one takes several times as long as running them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


class Replayed:
    """Calls `step` as often as it is called itself, from the third time on as a CUDA graph.

    The first step may differ from the others. These do the same work in the same tensors, without waiting for
    the device; the second is an ordinary one, in which libraries make what they make at their first use.
    Call it under one autocast and one current stream; what it works in is freed with it.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step, self._stream = step, _capture_stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 1:
            self._step()
        elif self._calls == 2:
            self._warm_up()
        else:
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()

    def _warm_up(self) -> None:
        """The step on the stream of the capture, since libraries keep some of what they make by stream."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step()
        current.wait_stream(self._stream)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Records the step without running it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on the device meanwhile is theirs
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._step()
        return graph


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: the allocator keeps memory by stream."""
    return torch.cuda.Stream(device)
