"""Acceptance on numbers worked out by hand (Leviathan 2023, algorithm 1)."""

from __future__ import annotations

import torch

from runtime.loop.accept import accept_greedy, accept_sampled


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
