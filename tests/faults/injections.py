"""Faults, put where they are wanted: into a policy, or into a model's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from runtime.policies.policy import Drafted, Outcome

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
Act = Callable[[], Any]


def raising(error: BaseException) -> Act:
    def act() -> Any:
        raise error

    return act


class Faulty:
    """A policy that drafts 3 tokens, one by one, until it acts up in one of its methods.

    Args:
        where: "begin", "first" (asked for a step), "later" (asked on within one), or "observe".
        act: what it then does; its result is the answer.
        after: calls of that kind before it does.
    """

    name = "faulty"

    def __init__(self, where: str, act: Act, after: int = 0) -> None:
        self.where, self.act, self.left = where, act, after
        self.asked = 0

    def _acts(self, here: str) -> bool:
        if here != self.where:
            return False
        self.left -= 1
        return self.left < 0

    def begin(self) -> None:
        if self._acts("begin"):
            self.act()

    def gamma(self, drafted: Drafted) -> Any:
        self.asked += 1
        if self._acts("later" if drafted.count else "first"):
            return self.act()
        return min(drafted.count + 1, 3)

    def observe(self, outcome: Outcome) -> None:  # noqa: ARG002
        if self._acts("observe"):
            self.act()


@contextmanager
def in_forward(
    model: PreTrainedModel, act: Callable[[Any], None], after: int = 0, once: bool = False
) -> Iterator[None]:
    """Let `act` have the output of every forward pass, after so many, or of one of them alone."""
    calls = 0

    def hook(_: torch.nn.Module, __: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after + 1 or (calls > after and not once):
            act(output)
        return output

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def fails(error: BaseException) -> Callable[[Any], None]:
    def act(_: Any) -> None:
        raise error

    return act


def spoils(kind: str) -> Callable[[Any], None]:
    """Return what makes logits unusable: all of them, or a single one."""

    def act(output: Any) -> None:
        logits = output.logits.clone()
        if kind == "all NaN":
            logits.fill_(torch.nan)
        elif kind == "one NaN":
            logits[..., 5] = torch.nan
        elif kind == "one infinite":
            logits[..., 5] = torch.inf
        else:  # overflown to both sides
            logits = torch.where(logits > 0, torch.inf, -torch.inf)
        output.logits = logits

    return act


SPOILT = ("all NaN", "one NaN", "one infinite", "all infinite")
