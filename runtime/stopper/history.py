"""What past verifications say about the next one: the features that stay the same while a step drafts."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log, log1p

from runtime.policies.policy import Outcome, TokenSignals

NAMES = (
    "accepted_short",
    "accepted_middle",
    "accepted_long",
    "accepted_pair",
    "surplus_middle",
    "surplus_long",
    "entropy_short",
    "log_run",
    "was_rejected",
    "was_all_accepted",
    "was_plain",
    "rejected_entropy",
    "rejected_logit",
    "last_accepted",
    "last_gamma",
    "log_position",
    "plain_steps",
    "target_known",
    "target_entropy",
    "target_logit",
    "rejected_target_entropy",
    "target_entropy_short",
    "distance_known",
    "distance",
    "distance_short",
    "distance_long",
)
"""Order of `History.features`. The target's entropy is that of the last token: after a spare, of the one behind it."""

SHORT, MIDDLE, LONG, PAIR = 0.3, 0.12, 0.04, 0.01
"""Weight of the newest value in a moving average: memories of about 3, 8, 25 and 100 tokens."""
FIRST_RATE = 0.6
"""Acceptance that a pair is believed to have before anything is known of it."""
USUAL_ENTROPY, USUAL_TARGET_ENTROPY = 1.0, 1.2
"""Bits; where the averages of the draft's and of the target's entropy begin in every text."""
USUAL_DISTANCE = 0.3
"""Total variation; where the averages of distances begin."""
MOST_TOKENS, MOST_PLAIN = 8, 4
"""Where the counts of the last step, and of plain steps in a row, are cut off."""
MOST_LOGIT = log(1e4 - 1)


def logit(probability: float) -> float:
    """Return ln(p / (1 − p)), p kept 1e-4 away from 0 and 1."""
    if not 1e-4 < probability < 1 - 1e-4:
        return MOST_LOGIT if probability > 0.5 else -MOST_LOGIT
    return log(probability / (1 - probability))


class History:
    """The acceptance of a text so far. The slowest averages belong to the pair and outlive the text."""

    def __init__(self) -> None:
        self._accepted_pair = FIRST_RATE
        self._surplus_long = 0.0
        self._distance_long = USUAL_DISTANCE
        self.begin()

    def begin(self) -> None:
        """Start a new text; what was learned of the pair stays."""
        self._accepted_short = self._accepted_middle = self._accepted_long = self._accepted_pair
        self._surplus_middle = self._surplus_long
        self._distance_short = self._distance_long
        self._entropy_short, self._target_entropy_short = USUAL_ENTROPY, USUAL_TARGET_ENTROPY
        self._run = self._position = self._plain_steps = 0
        self._last = Outcome(3, 2)  # a usual step, before there is one
        self._outcome: Outcome | None = None
        self._rejected: TokenSignals | None = None

    def observe(self, tokens: Sequence[TokenSignals], outcome: Outcome) -> None:
        """Learn from a verified step; `tokens` are the signals of what it drafted."""
        gamma, accepted, entropy, distance = outcome.gamma, outcome.accepted, outcome.target_entropy, outcome.distance
        for token in tokens[:accepted]:
            self._verify(token, 1.0)
        self._rejected = tokens[accepted] if accepted < gamma else None
        if self._rejected:
            self._verify(self._rejected, 0.0)
        if gamma:
            self._last, self._plain_steps = outcome, 0
        else:
            self._plain_steps += 1
            self._fade()
        self._run = 0 if self._rejected or not gamma else self._run + accepted
        if entropy == entropy:  # not NaN
            self._target_entropy_short += SHORT * (entropy - self._target_entropy_short)
        if distance == distance:
            self._distance_short += SHORT * (distance - self._distance_short)
            self._distance_long += LONG * (distance - self._distance_long)
        self._outcome = outcome
        self._position += outcome.tokens

    def _verify(self, token: TokenSignals, stands: float) -> None:
        self._accepted_short += SHORT * (stands - self._accepted_short)
        self._accepted_middle += MIDDLE * (stands - self._accepted_middle)
        self._accepted_long += LONG * (stands - self._accepted_long)
        self._accepted_pair += PAIR * (stands - self._accepted_pair)
        # How much more is accepted than the draft's confidence says: an overconfident draft is below 0.
        entropy, top1, _ = token
        surplus = stands - top1
        self._surplus_middle += MIDDLE * (surplus - self._surplus_middle)
        self._surplus_long += LONG * (surplus - self._surplus_long)
        self._entropy_short += SHORT * (entropy - self._entropy_short)

    def _fade(self) -> None:
        """Nothing was verified: let each average lean to the next slower one, as what was known grows old."""
        self._accepted_short += SHORT * (self._accepted_middle - self._accepted_short)
        self._accepted_middle += MIDDLE * (self._accepted_long - self._accepted_middle)
        self._accepted_long += LONG * (self._accepted_pair - self._accepted_long)
        self._surplus_middle += MIDDLE * (self._surplus_long - self._surplus_middle)

    def features(self) -> list[float]:
        """Return the values of `NAMES`, in that order; entropies in bits, probabilities as natural logits."""
        # Comparisons instead of min, max and float, as in `Progress`.
        outcome, rejected, last, plain_steps = self._outcome, self._rejected, self._last, self._plain_steps
        return [
            self._accepted_short,
            self._accepted_middle,
            self._accepted_long,
            self._accepted_pair,
            self._surplus_middle,
            self._surplus_long,
            self._entropy_short,
            log1p(self._run),
            1.0 if rejected else 0.0,
            1.0 if outcome and 0 < outcome.gamma == outcome.accepted else 0.0,
            1.0 if outcome and not outcome.gamma else 0.0,
            rejected.entropy if rejected else 0.0,
            logit(rejected.top1) if rejected else 0.0,
            last.accepted if last.accepted < MOST_TOKENS else MOST_TOKENS,
            last.gamma if last.gamma < MOST_TOKENS else MOST_TOKENS,
            log1p(self._position),
            plain_steps if plain_steps < MOST_PLAIN else MOST_PLAIN,
            *self._verified(),
        ]

    def _verified(self) -> list[float]:
        """What the last verification left behind; 0 beside a flag of 0 where it is not known."""
        outcome = self._outcome
        if outcome is None or isnan(outcome.target_entropy + outcome.target_top1):
            target = [0.0] * 5
        else:
            entropy = outcome.target_entropy
            rejected = entropy if self._rejected else 0.0
            target = [1.0, entropy, logit(outcome.target_top1), rejected, self._target_entropy_short]
        apart = outcome is not None and not isnan(outcome.distance)
        distance = [1.0, outcome.distance] if outcome and apart else [0.0, 0.0]
        return [*target, *distance, self._distance_short, self._distance_long]
