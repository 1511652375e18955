"""Phase 3, accept: which proposed tokens stand, and the target's own token after them. Pure functions of tensors.

All results stay on the device, so that a step waits for it once, when everything is read together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.loop.propose import token_signals
from runtime.loop.sampling import draw


def accept_greedy(logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """Accept while the proposal is the target's argmax.

    Args:
        logits: the target's, float32 `[gamma + 1, V]`.
        proposed: int64 `[gamma]`.

    Returns:
        How many tokens stand, and the target's token after them (correction, or bonus after all of them): int64 `[]`.
    """
    best = logits.argmax(-1)  # [gamma + 1]
    accepted = (best[:-1] == proposed).cumprod(0).sum()
    return accepted, best.take(accepted)


def accept_sampled(p: Tensor, q: Tensor | None, proposed: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Accept x with min(1, p(x)/q(x)), else resample from max(0, p − q) (Leviathan 2023, algorithm 1).

    Args:
        p: the target's distributions, float32 `[gamma + 1, V]`.
        q: the draft's, float32 `[gamma, V]`; None when nothing was proposed.
        proposed: int64 `[gamma]`, drawn from q.
        uniforms: float64 `[gamma + 1]` in [0, 1): one for each proposal, the last for the token after them.

    Returns:
        How many tokens stand, and the token after them: int64 `[]`.
    """
    gammas = proposed.new_full((1,), len(proposed))
    none = p.new_zeros(1, 1, p.shape[1])
    accepted, token = accept_drawn(p[None], none if q is None else q[None], proposed[None], gammas, uniforms[None])
    return accepted[0], token[0]


def accept_drawn(p: Tensor, q: Tensor, proposed: Tensor, gammas: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Do so for several texts at once, whose proposals are of different lengths.

    Args:
        p: float32 `[texts, width, V]`.
        q: float32 `[texts, slots, V]`, slots ≥ 1 and ≥ width − 1.
        proposed: int64 `[texts, width − 1]`; what is beyond a text's gamma is not looked at.
        gammas: int64 `[texts]`, below `width`; −1 for a text that takes no part.
        uniforms: float64 `[texts, width]`, of each text the first gamma + 1.

    Returns:
        How many tokens of each text stand, and the token after them: int64 `[texts]`; −1 and any token for a text that
        takes no part.
    """
    at = torch.arange(proposed.shape[1], device=p.device)
    own, drafted = (rows[:, : len(at)].gather(2, proposed[..., None])[..., 0] for rows in (p, q))  # [texts, width − 1]
    # u < p/q written without the division: q(x) > 0, since x was drawn from q.
    stands = (uniforms[:, :-1] * drafted < own) & (at < gammas[:, None])
    accepted = stands.cumprod(1).sum(1).minimum(gammas)
    left = _row_of_each(p, accepted.clamp_min(0))  # [texts, V]
    # The draft has no distribution after its last token: there nothing is subtracted from p.
    rejected = (accepted < gammas)[:, None]
    taken = _row_of_each(q, accepted.clamp(0, q.shape[1] - 1))
    residual = torch.where(rejected, left - taken, left).clamp_min(0)
    # p = q up to rounding can leave nothing: then every token of p is as good.
    weights = torch.where(residual.any(-1, keepdim=True), residual, left)
    return accepted, draw(weights, uniforms.gather(1, gammas.clamp_min(0)[:, None])[:, 0])


def left_behind(logits: Tensor, draft_logits: Sequence[Tensor], accepted: Tensor) -> Tensor:
    """Return float32 `[3]`: what `verified_signals` says of the distributions of the step's own token.

    Args:
        logits: the target's, float32 `[gamma + 1, V]`.
        draft_logits: the draft's, float32 `[1, V]` for each proposed token; their one device may be another.
        accepted: int64 `[]`. Where all tokens stand, the draft has no distribution, and the distance is NaN.
    """
    unknown = logits.new_full((1, logits.shape[1]), math.nan)
    device = draft_logits[0].device if draft_logits else logits.device
    drafted = torch.cat([*draft_logits, unknown.to(device)])  # [gamma + 1, V]
    return verified_signals(_row(logits, accepted), _row(drafted, accepted.to(device)).to(logits.device))[0]


def verified_signals(target: Tensor, draft: Tensor) -> Tensor:
    """Return float32 `[n, 3]` from two models' logits `[n, V]`.

    The target's entropy in bits and top-1 probability, and the total variation distance of the two distributions.
    """
    distance = (torch.softmax(target, -1) - torch.softmax(draft, -1)).abs().sum(-1, keepdim=True) / 2
    return torch.cat([token_signals(target)[:, :2], distance], dim=-1)


def _row(rows: Tensor, index: Tensor) -> Tensor:
    """Return row `index` (int64 `[]`) of `[n, V]` as `[1, V]`; subscripting would wait for the device."""
    return rows.index_select(0, index[None])


def _row_of_each(rows: Tensor, index: Tensor) -> Tensor:
    """Return `rows[b, index[b]]`, `[n, V]`, from `[n, m, V]`."""
    return rows.gather(1, index[:, None, None].expand(-1, 1, rows.shape[2]))[:, 0]
