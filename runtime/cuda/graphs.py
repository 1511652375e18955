"""CUDA graphs by name, captured when they first run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class Graphs:
    """Runs pieces of work whose tensors stay where they are; on CUDA each as one graph.

    Work is done once for real before it is captured, since kernels are compiled by running them; what it may have
    changed is put back.

    Args:
        state: the tensors that work changes and that are read later, on the device and on the host.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        self._state = state
        self._captured: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if state[0].is_cuda else None

    def run(self, name: Hashable, work: Callable[[], None]) -> None:
        """Do the work; `name` says which it is."""
        if self._pool is None:  # the kernels' interpreter
            with torch.inference_mode():
                work()
            return
        graph = self._captured.get(name) or self._capture(name, work)
        graph.replay()

    @torch.inference_mode()
    def _capture(self, name: Hashable, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        device = self._state[0].device
        torch.cuda.synchronize(device)  # what earlier work is about to write on the host is kept, too
        kept = [tensor.clone() for tensor in self._state]
        work()
        torch.cuda.synchronize(device)
        for tensor, value in zip(self._state, kept, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._captured[name] = graph
        return graph
