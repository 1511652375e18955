"""Phase 1, propose: the draft writes tokens until the policy has enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.loop.sampling import TokenChoice, draw
from runtime.loop.scorer import Scorer
from runtime.policies.policy import Drafted, Policy, TokenSignals


@dataclass(frozen=True)
class Proposal:
    """What the draft proposes for one step."""

    tokens: Tensor
    """int64 `[gamma]`."""
    q: Tensor | None
    """float32 `[gamma, V]`, the distributions the tokens were drawn from; None when greedy."""
    logits: list[Tensor]
    """float32 `[1, V]` each: the draft's where it drafted each token, kept on its device."""
    drafted: Drafted


def propose(
    draft: Scorer, context: Tensor, policy: Policy, limit: int, choice: TokenChoice, generator: torch.Generator
) -> Proposal:
    """Draft up to `limit` tokens after `context` (int64 `[n]`); the draft has seen its first `draft.length` tokens."""
    pending = context[draft.length :].to(draft.device)
    drafted = Drafted()
    tokens: list[Tensor] = []
    q: list[Tensor] = []
    kept: list[Tensor] = []
    while (goal := min(policy.gamma(drafted), limit)) > drafted.count:
        signals = []
        for _ in range(goal - drafted.count):
            logits = draft.score(pending, keep=1)
            scores = choice.scores(logits, context, tokens)
            if choice.greedy:
                token = scores[0].argmax()
            else:
                q.append(torch.softmax(scores, -1))
                token = draw(q[-1][0], torch.rand((), generator=generator, dtype=torch.float64).to(draft.device))
            signals.append(token_signals(logits))
            kept.append(logits)
            tokens.append(token)
            pending = token[None]
        # One transfer to the host for all the tokens that the policy asked for at once.
        drafted.tokens += [TokenSignals(*row) for row in torch.cat(signals).tolist()]
    proposed = torch.stack(tokens) if tokens else pending.new_empty(0)
    return Proposal(proposed, torch.cat(q) if q else None, kept, drafted)


def token_signals(logits: Tensor) -> Tensor:
    """Return float32 `[n, 3]` from logits `[n, V]`: entropy in bits, top-1 and top-2 probability.

    Of the draft's plain softmax, before temperature and truncation, as in the published step records.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    # A masked token (log p = -inf) adds nothing; rounding may not take the entropy below 0.
    entropy = torch.special.entr(p).sum(-1, keepdim=True).clamp_min(0) / math.log(2)
    return torch.cat([entropy, p.topk(2, dim=-1).values.clamp_max(1)], dim=-1)
