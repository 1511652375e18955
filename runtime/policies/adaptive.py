"""Our controller: draft on while the next tokens are expected to save more time than they take."""

from __future__ import annotations

from math import inf, log
from typing import NamedTuple

from runtime.policies.policy import LONGEST_SPARED, Drafted, Outcome, TokenSignals
from runtime.policies.price import LONGEST, Price
from runtime.policies.step_times import RunningTimes, StepTimes
from runtime.stopper.history import History
from runtime.stopper.progress import NOTHING, Progress
from runtime.stopper.stopper import Stopper


class Rule(NamedTuple):
    """What it takes to answer in `Adaptive`'s place in the step to come, after its first answer.

    Drafting goes on while fewer than `LONGEST` tokens are drafted and S · following > `price.least`.
    """

    stopper: Stopper
    """Knows what stays while the step drafts."""
    price: Price


class Adaptive:
    """Goes on while S · (b + … + b^k) · (value of a token) exceeds the time of k more, for any k; nothing to tune.

    S is the probability that all drafted tokens stand, b that the next one does too, both from the acceptance model
    (`runtime.stopper`); a token is worth 1 / R(b) milliseconds (`Price`), and one more takes a draft forward and a
    verification wider by one. This is the rule of renewal-reward processes (Dinkelbach 1967), with a rate R of the
    moment instead of the long run. Where no length pays the text is decoded plainly, but for a trial now and then, on
    which at most one percent of that time is lost: a pair that agrees again is found again.

    Verification often has room for another token or two that hardly takes longer. Then the draft's second choice is
    verified beside its first where it is likeliest to be what the target wants (`spares`).

    The times follow the machine (`RunningTimes`) and the model's moving averages follow the text and the pair.
    """

    name = "adaptive"
    weighs_time = True
    TRIALS = 0.01
    """Share of the time that trials may lose to plain decoding."""
    SAVED = 10
    """Plain steps whose time the budget is at most: gains may be saved up, but not for long."""
    DRIFT, GRID = 1.1, 1.05
    """Other prices are taken when draft and target have drifted apart by the first ratio: those of the nearest power of
    the second, which are kept.

    The best lengths hardly differ within it. In a replay with draft times that scatter by a fifth, and target times by
    a tenth, they drift so far in three steps of a hundred, and half as far in twelve.
    """

    def __init__(self, stopper: Stopper, times: StepTimes) -> None:
        self.stopper = stopper
        self.times = RunningTimes(times)
        self._expected = times
        self._spare_ms = [self._longer_ms(gamma) for gamma in range(LONGEST + 1)]
        self._prices: dict[int, Price] = {}
        self.history = History()
        self.budget_ms = 0.0
        self._reprice()
        self.begin()

    def begin(self) -> None:
        """Start a new text; keep what was learned of the pair and the machine."""
        self.history.begin()
        self.pending = 1
        self.tokens: list[TokenSignals] = []
        self.stopper.begin_step(self.history.features())

    def gamma(self, drafted: Drafted) -> int:
        """Draft one more token, or stop."""
        self.tokens = tokens = drafted.tokens
        count = len(tokens)
        if not count:
            return self._first()
        if count >= LONGEST:
            return count
        accepted, following = self.stopper(self.progress.add(tokens[-1]))
        self.survival *= accepted
        return count + (self.survival * following > self.price.least(count, following))

    def _first(self) -> int:
        """Return 1 where some length pays at the probability of the first token, or a trial is due; else 0."""
        self.progress, self.survival = Progress(), 1.0
        _, following = self.stopper(NOTHING)
        self.rate, self.pays = self.price.rate(following), self.price.length(following) > 0
        return int(self.pays or self.budget_ms >= self._loss_ms(1, following))

    def spares(self, drafted: Drafted) -> list[int]:
        """Return the places, two at most, whose second choices are expected to save more time than they take.

        As the draft sees it, the first i tokens stand and the second choice is the next one with the probability
        (top-1 of the first) · … · (top-1 of the i-th) · (top-2 of the next). If it is, the step has one token more. A
        third place gains nothing, in a replay of the project's own pair.
        """
        one_ms, two_ms = self._spare_ms[drafted.count]
        if one_ms == inf or not self.pays:
            return []
        best = other = 0.0
        place, other_place, survival = -1, -1, 1.0
        for at, (_, top1, top2) in enumerate(drafted.tokens):  # the verification waits: no lists, no sorting
            probability = survival * top2
            if probability > best:
                best, place, other, other_place = probability, at, best, place
            elif probability > other:
                other, other_place = probability, at
            survival *= top1
        one, two = best - self.rate * one_ms, best + other - self.rate * two_ms
        if two > one and two > 0.0 and other_place >= 0:
            return [place, other_place]
        return [place] if one > 0.0 and place >= 0 else []

    def _longer_ms(self, gamma: int) -> tuple[float, float]:
        """Milliseconds that verifying `gamma` tokens takes longer with one spare and with two, as far as they fit."""
        times, room = self._expected, LONGEST_SPARED - 1 - gamma
        if times.spare_ms is None:
            return inf, inf
        one_ms, two_ms = (times.verifying_ms(gamma, spares) - times.verifying_ms(gamma) for spares in (1, 2))
        return one_ms if room >= 1 else inf, two_ms if room >= 2 else inf

    def device_rule(self) -> Rule | None:
        """Return what it will answer by until the next step is verified, or this one if it has begun.

        None for classes that answer otherwise.
        """
        return Rule(self.stopper, self.price) if type(self).gamma is Adaptive.gamma else None

    def observe(self, outcome: Outcome) -> None:
        """Learn from a verified step."""
        self.history.observe(self.tokens, outcome)
        self.stopper.begin_step(self.history.features())
        times = self.times
        times.observe(outcome, self.pending)
        if not self.pays:
            self._book(outcome)
        self.pending = outcome.unseen(self.pending)
        ratio = times.draft_scale / times.target_scale / self.priced
        if not 1 / self.DRIFT <= ratio <= self.DRIFT:
            self._reprice()

    def _book(self, outcome: Outcome) -> None:
        """Earn the share of a step for trials, less what it did lose as one (what a trial gains is earned, too)."""
        earned_ms = self.TRIALS * self.times.step_ms(outcome.gamma, self.pending)
        lost_ms = self._loss_ms(outcome.gamma, outcome.accepted)
        self.budget_ms = min(self.budget_ms + earned_ms - lost_ms, self.SAVED * self.times.step_ms(0))

    def _loss_ms(self, gamma: int, accepted: float) -> float:
        """Milliseconds that a step takes longer than decoding its tokens plainly would."""
        return self.times.step_ms(gamma, self.pending) - (accepted + 1) * self.times.step_ms(0)

    def _reprice(self) -> None:
        """Take the prices of a token at the times of late."""
        self.priced = self.times.draft_scale / self.times.target_scale
        step = round(log(self.priced, self.GRID))
        if step not in self._prices:  # computing them takes as long as several decisions
            self._prices[step] = Price(self._expected, self.GRID**step)
        self.price = self._prices[step]
