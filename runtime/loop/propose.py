"""Phase 1, propose: the draft writes tokens until the policy has enough."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.loop.sampling import TokenChoice, draw
from runtime.loop.scorer import Scorer
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Drafted, TokenSignals


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
    draft: Scorer, context: Tensor, policy: Guarded, limit: int, choice: TokenChoice, generator: torch.Generator
) -> Proposal:
    """Draft up to `limit` tokens after `context` (int64 `[n]`); the draft first forgets what is not in it.

    A draft that fails is dropped for the rest of the text. What it drew before is proposed all the same: to leave out
    a token for what came after it would bias sampling.
    """
    drafting = _Drafting(draft, context, choice, generator)
    try:
        if draft.length >= len(context):
            draft.rollback(len(context) - 1)
        while (goal := min(policy.gamma(drafting.drafted), limit)) > drafting.drafted.count:
            drafting.extend(goal - drafting.drafted.count)
    except Exception as error:  # whatever a model can raise; the target goes on without it
        policy.drop_draft(error)
        drafting.read()
        draft.rollback(0)  # its cache would only take memory
    return drafting.proposal()


class _Drafting:
    """The tokens of one step as they are drawn; `drafted` are those whose signals have been read."""

    def __init__(self, draft: Scorer, context: Tensor, choice: TokenChoice, generator: torch.Generator) -> None:
        self.draft, self.context, self.choice, self.generator = draft, context, choice, generator
        self.drafted = Drafted()
        self.tokens: list[Tensor] = []
        self.q: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.signals: list[Tensor] = []

    def extend(self, count: int) -> None:
        """Draw `count` more tokens."""
        for _ in range(count):
            self._draw()
        if not self.read():
            raise FloatingPointError("its logits are not finite")

    def _draw(self) -> None:
        unseen = self.tokens[-1][None] if self.tokens else self.context[self.draft.length :].to(self.draft.device)
        logits = self.draft.score(unseen, keep=1)
        signals = token_signals(logits)
        scores = self.choice.scores(logits, self.context, self.tokens)
        if self.choice.greedy:
            token = scores[0].argmax()
        else:
            q = torch.softmax(scores, -1)
            uniform = torch.rand((), generator=self.generator, dtype=torch.float64).to(logits.device)
            token = draw(q[0], uniform)
            self.q.append(q)
        self.tokens.append(token)
        self.logits.append(logits)
        self.signals.append(signals)

    def read(self) -> bool:
        """Bring the signals of new tokens to the host, in one transfer; return whether they are all numbers.

        From the first that is none on, the tokens are dropped: they were drawn from no distribution.
        """
        unread = self.signals[self.drafted.count :]
        signals = [TokenSignals(*row) for row in torch.cat(unread).tolist()] if unread else []
        sound = list(itertools.takewhile(lambda token: token.known, signals))
        self.drafted.tokens += sound
        for drawn in (self.tokens, self.q, self.logits, self.signals):
            del drawn[self.drafted.count :]
        return len(sound) == len(signals)

    def proposal(self) -> Proposal:
        """Return what has been read."""
        tokens = torch.stack(self.tokens) if self.tokens else self.context.new_empty(0).to(self.draft.device)
        return Proposal(tokens, torch.cat(self.q) if self.q else None, self.logits, self.drafted)


def token_signals(logits: Tensor) -> Tensor:
    """Return float32 `[n, 3]` from logits `[n, V]`: entropy in bits, top-1 and top-2 probability.

    Of the draft's plain softmax, before temperature and truncation, as in the published step records.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    # A masked token (log p = -inf) adds nothing; rounding may not take the entropy below 0.
    entropy = torch.special.entr(p).sum(-1, keepdim=True).clamp_min(0) / math.log(2)
    return torch.cat([entropy, p.topk(2, dim=-1).values.clamp_max(1)], dim=-1)
