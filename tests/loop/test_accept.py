"""Acceptance on numbers worked out by hand (Leviathan 2023, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runtime.loop.accept import accept_greedy, accept_sampled, left_behind


def one_hot(*tokens: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens), 4).float()


def uniforms(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_greedy_accepts_the_common_prefix_and_corrects() -> None:
    logits = one_hot(1, 2, 3, 0)
    assert accept_greedy(logits, torch.tensor([1, 2, 3])) == (3, 0)
    assert accept_greedy(logits, torch.tensor([1, 0, 3])) == (1, 2)
    assert accept_greedy(logits, torch.tensor([0, 2, 3])) == (0, 1)
    assert accept_greedy(logits[:1], torch.tensor([], dtype=torch.int64)) == (0, 1)


def test_sampled_accepts_with_probability_p_over_q() -> None:
    p, q = torch.tensor([[0.2, 0.8], [0.5, 0.5]]), torch.tensor([[0.4, 0.6]])
    proposed = torch.tensor([0])  # p/q = 1/2
    assert accept_sampled(p, q, proposed, uniforms(0.49, 0.0)) == (1, 0)
    assert accept_sampled(p, q, proposed, uniforms(0.49, 0.9)) == (1, 1)
    assert accept_sampled(p, q, proposed, uniforms(0.51, 0.0)) == (0, 1)  # the residual is token 1 alone


def test_sampled_always_accepts_what_the_target_likes_better() -> None:
    p, q = torch.tensor([[0.2, 0.8], [1.0, 0.0]]), torch.tensor([[0.4, 0.6]])
    assert accept_sampled(p, q, torch.tensor([1]), uniforms(1 - 2**-53, 0.0)) == (1, 0)


def test_sampled_rejects_what_the_target_never_says() -> None:
    p, q = one_hot(2, 2), one_hot(1)
    assert accept_sampled(p, q, torch.tensor([1]), uniforms(0.0, 0.3)) == (0, 2)


def test_nothing_proposed_draws_from_the_target() -> None:
    p = torch.tensor([[0.25, 0.25, 0.5]])
    empty = torch.tensor([], dtype=torch.int64)
    assert [accept_sampled(p, None, empty, uniforms(u)) for u in (0.1, 0.3, 0.9)] == [(0, 0), (0, 1), (0, 2)]


def test_what_is_left_behind_is_of_the_place_of_the_targets_own_token() -> None:
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]])
    q = [torch.tensor([row]).log() for row in ([0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.0, 0.5])]
    assert left_behind(p.log(), q, torch.tensor(0)).tolist() == pytest.approx([2.0, 0.25, 0.45])
    assert left_behind(p.log(), q, torch.tensor(1)).tolist() == pytest.approx([1.5, 0.5, 0.5])
    # Nothing was drafted at the last place.
    assert left_behind(p.log(), q, torch.tensor(2)).tolist() == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)
    assert left_behind(p[:1].log(), [], torch.tensor(0)).tolist() == pytest.approx([2.0, 0.25, math.nan], nan_ok=True)


class Waits(TorchDispatchMode):
    """Counts the operators that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_acceptance_never_waits_for_the_device() -> None:
    logits, drafted = torch.randn(4, 9), [torch.randn(1, 9) for _ in range(3)]
    proposed, draws = logits[:3].argmax(-1), uniforms(0.1, 0.5, 0.9, 0.3)
    with Waits() as waits:
        accepted, _ = accept_greedy(logits, proposed)
        left_behind(logits, drafted, accepted)
        accept_sampled(logits.softmax(-1), torch.cat(drafted).softmax(-1), proposed, draws)
        accept_sampled(logits[:1].softmax(-1), None, proposed[:0], draws[3:])
        assert waits.count == 0
        int(accepted)
    assert waits.count == 1
