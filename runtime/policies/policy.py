"""What a policy sees and what it answers. A policy knows no model: replay and the live loop run the same objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from runtime.decision.signals import Signals

LONGEST_SPARED = 8
"""Tokens of a text in a verification with spares at most: its last one, the drafted ones and the spares."""


class TokenSignals(NamedTuple):
    """What the draft's distribution said where one token was drafted."""

    entropy: float
    """Bits."""
    top1: float
    """Probability of the likeliest token."""
    top2: float
    """Probability of the second likeliest token."""

    @property
    def known(self) -> bool:
        """Whether they are numbers; logits that are NaN or infinite have no distribution."""
        return not math.isnan(self.entropy + self.top1)


@dataclass
class Drafted:
    """The tokens drafted so far in the step, as their signals; grows while the step drafts."""

    tokens: list[TokenSignals] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many tokens have been drafted in this step."""
        return len(self.tokens)

    def signals(self) -> Signals:
        """Summarise into the four published signals; needs at least one token."""
        entropies = [token.entropy for token in self.tokens]
        confidences = [token.top1 for token in self.tokens]
        return Signals(
            sum(entropies) / len(entropies), sum(confidences) / len(confidences), max(entropies), min(confidences)
        )


class Outcome(NamedTuple):
    """What one step left behind: what its verification said, and what it took. NaN is what is not known.

    The distributions are the plain softmax, before temperature and truncation, as in `TokenSignals`; those of "the
    last token" are the ones at the place of the step's own token (correction or bonus). The first step of a text also
    reads the prompt, and takes longer for it.
    """

    gamma: int
    """Tokens drafted; less than the policy asked for where the text's end was near, or among many rows (`Policy`)."""
    accepted: int
    """Drafted tokens that stand, in [0, gamma]."""
    target_entropy: float = math.nan
    """Bits, of the target's distribution of the last token."""
    target_top1: float = math.nan
    """Probability of that distribution's likeliest token."""
    distance: float = math.nan
    """Total variation distance of the draft's and the target's distribution of the last token, in [0, 1]; NaN where
    the draft computed none: after full acceptance, and where nothing was drafted."""
    draft_ms: float = math.nan
    """Measured milliseconds of drafting, the policy's own time included."""
    verify_ms: float = math.nan
    """Measured milliseconds of verifying and accepting."""
    spares: int = 0
    """Second choices of the draft that were verified, too."""
    spared: bool = False
    """Whether one of them stands: the target's token in the place of the first that was rejected. Then the target has
    chosen the token after it, too, and that one's distribution is meant above; the distance is the rejected one's."""

    @property
    def tokens(self) -> int:
        """Tokens that the step committed, but for an end of the text among them."""
        return self.accepted + 1 + self.spared

    def unseen(self, before: int) -> int:
        """Return how many committed tokens the draft has not seen after the step, of `before` ahead of it.

        It has seen all but the last one, and never its own last one; nothing where it drafted nothing.
        """
        return (int(self.accepted == self.gamma or self.spared) if self.gamma else before) + 1


class Policy(Protocol):
    """Chooses how far a step drafts; learns from what became of it.

    Losslessness (Leviathan 2023) asks that every token drawn is verified. A policy cannot break this: it only says
    how long the draft becomes, and what is verified beside it; what is drafted is always verified.

    Its class may say `weighs_time = True`: among many rows such a policy may be given less than it asks for, where
    drafting on for it would cost the others more; or be neither asked nor told of steps that others decide for its row,
    too, and begin anew afterwards (`runtime.cuda.loop`).

    It may have a method `spares`, asked when a step has drafted: it returns places of drafted tokens, from 0, for which
    the draft's second choice is to be verified beside the first, the most wanted first (`chosen_spares`). A greedy loop
    with one text at a time on a GPU then does so, and a step whose token is rejected there goes on for one more if the
    second choice is right; others do not ask. It is asked before `gamma` has seen the last token, or after.

    It may have a method `device_rule` that returns what it will answer by after the first answer of the step to come
    (`runtime.policies.adaptive.Rule`), or None: a fast loop then goes on as the rule says, and asks meanwhile, while it
    verifies for the last time. A step that the rule ends ends there, whatever `gamma` says then.
    """

    name: str

    def begin(self) -> None:
        """Start a new text: forget what belongs to the last one."""
        ...

    def gamma(self, drafted: Drafted) -> int:
        """Return the length, in tokens, to draft up to before asking again.

        The loop asks with what has been drafted so far (nothing, at the start of a step); an answer not above
        `drafted.count` ends the drafting. 0 at the start means a plain decoding step.
        """
        ...

    def observe(self, outcome: Outcome) -> None:
        """Learn from a step that has been verified."""
        ...


class Memoryless:
    """Base of policies that carry nothing from one step to the next."""

    def begin(self) -> None:
        """Nothing to forget."""

    def observe(self, outcome: Outcome) -> None:
        """Nothing to learn."""


class StopRule(Memoryless):
    """Base of rules that draft token by token and may stop after each.

    The draft's distribution at a place is known only when its token has been drawn, and a drawn token must be
    verified. So where a source's rule tests a token before drafting it, here that token is still verified.
    """

    longest: int
    """Tokens drafted at most in a step."""

    def gamma(self, drafted: Drafted) -> int:
        """Draft one more token unless the rule says stop."""
        if drafted.count and self.stops(drafted):
            return drafted.count
        return min(drafted.count + 1, self.longest)

    def stops(self, drafted: Drafted) -> bool:
        """Return whether to stop after these tokens, at least one."""
        raise NotImplementedError
