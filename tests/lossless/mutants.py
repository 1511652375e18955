"""Loops that are wrong in one place: what the tests of losslessness must catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.loop import generate as loop
from runtime.loop.propose import Proposal, _Drafting
from runtime.loop.sampling import draw
from runtime.loop.scorer import CachedModel


def _rows(p: Tensor, q: Tensor | None) -> Tensor:
    """The draft's distributions as wide as the target's; nothing after its last token."""
    return torch.zeros_like(p) if q is None else torch.nn.functional.pad(q, (0, 0, 0, 1))


def _accepted(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> int:
    rows, at = _rows(p, q), torch.arange(len(proposed))
    return int((u[:-1] * rows[at, proposed] < p[at, proposed]).cumprod(0).sum())


def accepts_always(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    del q
    return torch.tensor(len(proposed)), draw(p[-1], u[-1])


def takes_the_likeliest_in_place_of_the_residual(
    p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    n = _accepted(p, q, proposed, u)
    return torch.tensor(n), p[n].argmax() if n < len(proposed) else draw(p[n], u[-1])


def resamples_from_the_draft(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    n = _accepted(p, q, proposed, u)
    return torch.tensor(n), draw(_rows(p, q)[n] if n < len(proposed) else p[n], u[-1])


def resamples_from_p(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    n = _accepted(p, q, proposed, u)
    return torch.tensor(n), draw(p[n], u[-1])


def resamples_from_the_absolute_difference(
    p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    n = _accepted(p, q, proposed, u)
    return torch.tensor(n), draw((p[n] - _rows(p, q)[n]).abs(), u[-1])


def takes_the_bonus_from_the_row_before(
    p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    n = _accepted(p, q, proposed, u)
    if n == len(proposed):
        return torch.tensor(n), draw(p[max(n - 1, 0)], u[-1])
    return torch.tensor(n), draw((p[n] - _rows(p, q)[n]).clamp_min(0), u[-1])


def accepts_by_the_odds_turned_round(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    rows, at = _rows(p, q), torch.arange(len(proposed))
    n = int((u[:-1] * p[at, proposed] < rows[at, proposed]).cumprod(0).sum())
    residual = (p[n] - rows[n]).clamp_min(0)
    return torch.tensor(n), draw(residual if residual.any() else p[n], u[-1])


def uses_one_uniform_for_all(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Accepts with a number, and draws the token after with the same."""
    n = _accepted(p, q, proposed, u[-1].expand(len(proposed) + 1))
    residual = (p[n] - _rows(p, q)[n]).clamp_min(0)
    return torch.tensor(n), draw(residual if residual.any() else p[n], u[-1])


class Discarding(_Drafting):
    """Leaves its last token out after looking at it, where the draft was not sure of it."""

    def proposal(self) -> Proposal:
        if self.q and float(self.q[-1][0, self.tokens[-1]]) < 0.3:
            for drawn in (self.tokens, self.q, self.logits, self.signals, self.drafted.tokens):
                del drawn[-1:]
        return super().proposal()


class Forgetful(_Drafting):
    """Leaves out all that it drew when its draft fails; it should be verified."""

    def extend(self, count: int) -> None:
        try:
            super().extend(count)
        except Exception:
            for drawn in (self.tokens, self.q, self.logits, self.signals, self.drafted.tokens):
                drawn.clear()
            raise


SAMPLING = {
    rule.__name__: ("accept_sampled", rule)
    for rule in (
        accepts_always,
        takes_the_likeliest_in_place_of_the_residual,
        resamples_from_the_draft,
        resamples_from_p,
        resamples_from_the_absolute_difference,
        takes_the_bonus_from_the_row_before,
        accepts_by_the_odds_turned_round,
        uses_one_uniform_for_all,
    )
}


def accepts_one_more(logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    best = logits.argmax(-1)
    accepted = ((best[:-1] == proposed).cumprod(0).sum() + 1).clamp_max(len(proposed))
    return accepted, best.take(accepted)


def accepts_everything(logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tensor(len(proposed)), logits[-1].argmax()


def takes_its_own_from_the_row_before(logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    best = logits.argmax(-1)
    accepted = (best[:-1] == proposed).cumprod(0).sum()
    return accepted, best.take((accepted - 1).clamp_min(0))


def counts_matches_after_the_first_mismatch(logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    best = logits.argmax(-1)
    accepted = (best[:-1] == proposed).sum()
    return accepted, best.take(accepted)


GREEDY = {
    rule.__name__: ("accept_greedy", rule)
    for rule in (
        accepts_one_more,
        accepts_everything,
        takes_its_own_from_the_row_before,
        counts_matches_after_the_first_mismatch,
    )
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Let the loop be wrong in the place of that name."""
    with pytest.MonkeyPatch.context() as patch:
        if name in {**SAMPLING, **GREEDY}:
            patch.setattr(loop, *{**SAMPLING, **GREEDY}[name])
        else:
            OTHERS[name](patch)
        yield


def discards_a_token_after_looking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runtime.loop.propose._Drafting", Discarding)


def never_forgets_a_rejected_token(patch: pytest.MonkeyPatch) -> None:
    """The cache is cut to the right length, but its last entry is that of a rejected token."""

    def rollback(self: Any, length: int) -> None:
        if length < self.length:
            for layer in self.cache.layers:
                layer.keys = torch.cat([layer.keys[..., : length - 1, :], layer.keys[..., -1:, :]], -2)
                layer.values = torch.cat([layer.values[..., : length - 1, :], layer.values[..., -1:, :]], -2)
            self.length = length

    patch.setattr(CachedModel, "rollback", rollback)


def scores_at_the_position_before(patch: pytest.MonkeyPatch) -> None:
    """Verification reads its distributions one place too early."""
    original = loop.verify

    def verify(target: Any, last: Tensor, proposed: Tensor) -> Tensor:
        return original(target, last, proposed).roll(1, 0)

    patch.setattr(loop, "verify", verify)


OTHERS = {
    rule.__name__: rule
    for rule in (discards_a_token_after_looking, never_forgets_a_rejected_token, scores_at_the_position_before)
}
OF_SAMPLING = (*SAMPLING, "discards_a_token_after_looking", "scores_at_the_position_before")
OF_GREEDY = (*GREEDY, "never_forgets_a_rejected_token", "scores_at_the_position_before")
