"""Phase 3, accept: which proposed tokens stand, and the target's own token after them. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.loop.sampling import draw


def accept_greedy(logits: Tensor, proposed: Tensor) -> tuple[int, int]:
    """Accept while the proposal is the target's argmax.

    Args:
        logits: the target's, float32 `[gamma + 1, V]`.
        proposed: int64 `[gamma]`.

    Returns:
        How many tokens stand, and the target's token after them (correction, or bonus after all of them).
    """
    best = logits.argmax(-1)  # [gamma + 1]
    accepted = int((best[:-1] == proposed).cumprod(0).sum())
    return accepted, int(best[accepted])


def accept_sampled(p: Tensor, q: Tensor | None, proposed: Tensor, uniforms: Tensor) -> tuple[int, int]:
    """Accept x with min(1, p(x)/q(x)), else resample from max(0, p − q) (Leviathan 2023, algorithm 1).

    Args:
        p: the target's distributions, float32 `[gamma + 1, V]`.
        q: the draft's, float32 `[gamma, V]`; None when nothing was proposed.
        proposed: int64 `[gamma]`, drawn from q.
        uniforms: float64 `[gamma + 1]` in [0, 1): one for each proposal, the last for the token after them.

    Returns:
        How many tokens stand, and the token after them.
    """
    gamma = len(proposed)
    if q is None:
        return 0, int(draw(p[0], uniforms[-1]))
    at = torch.arange(gamma, device=p.device)
    # u < p/q written without the division: q(x) > 0, since x was drawn from q.
    stands = uniforms[:-1] * q[at, proposed] < p[at, proposed]
    accepted = int(stands.int().cumprod(0).sum())
    if accepted == gamma:
        return gamma, int(draw(p[gamma], uniforms[-1]))
    residual = (p[accepted] - q[accepted]).clamp_min(0)
    # p = q up to rounding can leave nothing: then every token of p is as good.
    return accepted, int(draw(residual if residual.any() else p[accepted], uniforms[-1]))
