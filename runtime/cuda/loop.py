"""The loop on a `GraphPair`: the phases of the plain loop, each begun on the device before the host needs it.

A step is one for all rows: the draft goes on while any row wants another token, and the target verifies as many tokens
as the longest of them, and spares where a text is alone. Each row keeps its own gamma, acceptance and end; what was
drafted for it beyond its gamma is not looked at. Among many rows some draft as far as others do (`speculate_texts`).

Where the device can tell what the policies will answer (`runtime.cuda.foresight`), the next call is begun as foreseen
and they are asked while it runs. A policy that then wants no more than was foreseen gets what it wants; one that wants
more has a step that ends where it was foreseen to end: by rounding, or since it failed meanwhile.

When sampling, every text has the random numbers that the plain loop draws for it: one for each token drafted up to its
gamma, then one for each of them again and one for the target's own. Numbers that others of its tokens were drafted with
are taken for what comes next: nothing was done with those tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from runtime.cuda.pair import RESTS, Drawn, GraphPair, Verified
from runtime.errors import SpeckvError
from runtime.loop.commit import Ends
from runtime.loop.failure import no_numbers, targets_own
from runtime.loop.generate import Step
from runtime.loop.sampling import Sampling
from runtime.loop.texts import Text, TextStep
from runtime.loop.uniforms import Uniforms
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Drafted, Outcome, Policy

UNKNOWN = (math.nan, math.nan)
"""Milliseconds of a step that are not those of the row's own gamma."""
PANEL = 4
"""Rows whose policies are asked, of those with policies that weigh time."""


def speculate_greedily(
    pair: GraphPair,
    prompt: Sequence[int],
    policy: Policy,
    *,
    max_new_tokens: int,
    eos: Collection[int] = (),
    stop: Ends | None = None,
) -> Iterator[Step]:
    """Generate the target's greedy tokens; arguments, steps and errors are `runtime.loop.generate.speculate`'s."""
    for done in speculate_texts(pair, [Text(prompt, max_new_tokens, eos, stop)], [policy]):
        yield done.step


def speculate_texts(
    pair: GraphPair,
    texts: Iterable[Text],
    policies: Sequence[Policy],
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[TextStep]:
    """Generate after every prompt, a row of the pair for each of as many texts at a time.

    A row whose text has ended takes the next one. The first token of a step is drafted while the host still reads what
    became of the step before: the device need not wait, and policies that then draft nothing have lost one draft
    forward.

    A policy that weighs time does so with the milliseconds of calls on all rows. That is its row's share of them times
    the number of rows, and a common factor changes no decision; but it weighs as if all rows did as it does, and a row
    that alone goes on drafting makes all others wait for it. So such policies (`Policy`'s `weighs_time`) get a further
    token where half of them want one; others get what they ask for. And since the answer is one for all, and the device
    waits for it, no more than `PANEL` of such policies are asked, those of the first places at work: the other rows
    draft as far as a step goes, and their policies are told nothing; one that is asked again begins anew. Of a step's
    measured milliseconds only the rows that drafted furthest are told; they are NaN to the others, and to all after
    prompts have been read.

    Args:
        pair: with a row for each policy at least.
        texts: asked for the next one when a row is free.
        policies: one for each row; it sees all texts of its row, one after the other.
        sampling: greedy by default.
        seed: of each text's draws when sampling; the tokens are the plain loop's, as far as rounding allows, and a
            policy chooses the same lengths there: none above the pair's longest, and not by the clock or other rows.

    Raises:
        SpeckvError: if a text is longer than the pair's rows.
        TargetError: if the pair fails; the steps before it stand.
    """
    choice = sampling or Sampling()
    rule = next((rule for policy in policies if (rule := Guarded(policy).device_rule())), None)
    with targets_own(0):
        pair.choose(choice)
        pair.foresee(rule.stopper if rule else None)
    waiting = ((number, text) for number, text in enumerate(texts) if text.max_new_tokens > 0)
    draws = None if choice.greedy else seed
    free = [_Row(place, policy, draws) for place, policy in enumerate(policies)]
    rows: list[_Row] = []
    ahead: float | None = None
    while True:
        joined = [row.begin(number, text) for row, (number, text) in zip(free, waiting, strict=False)]
        if joined:
            _check_room(pair, joined)
            with targets_own(0):
                pair.begin({row.place: row.tokens for row in joined})
            rows, free, ahead = rows + joined, free[len(joined) :], None
        if not rows:
            return
        steps, ahead = _step(pair, rows, ahead, timed=not joined)
        yield from steps
        free += [row for row in rows if row.ended]
        rows = [row for row in rows if not row.ended]


@dataclass(slots=True)
class _Row:
    """A row of the pair, and the text in it."""

    place: int
    policy: Policy
    seed: int | None
    """Of each text's draws; None when greedy."""
    guarded: Guarded = field(init=False)
    """It, for the text."""
    number: int = 0
    tokens: list[int] = field(default_factory=list)
    end: int = 0
    """Tokens of the text at most."""
    eos: Collection[int] = ()
    stop: Ends | None = None
    uniforms: Uniforms | None = None
    """Of the text, when sampling."""
    ended: bool = False
    unseen: int = 1
    """Committed tokens that are new to the draft."""
    limit: int = 0
    """Tokens to draft at most in this step."""
    goal: int = 0
    """Tokens to draft before the policy is asked again."""
    follows: bool = False
    """Whether it drafts in this step as far as others do, and its policy is not asked."""
    ruled: Policy | None = None
    """The policy whose rule the device has for this step."""
    spares: list[int] = field(default_factory=list)
    """Places in this step whose second choices are verified, too."""
    drafted: Drafted = field(default_factory=Drafted)
    proposed: list[int] = field(default_factory=list)

    def begin(self, number: int, text: Text) -> _Row:
        """Start a new text."""
        self.uniforms = None if self.seed is None else Uniforms(self.seed)
        self.number, self.tokens, self.end = number, list(text.prompt), len(text.prompt) + text.max_new_tokens
        self.eos, self.stop, self.ended, self.unseen, self.follows = text.eos, text.stop, False, 1, False
        self.guarded = Guarded(self.policy)
        self.guarded.begin()
        return self

    def begin_step(self, longest: int) -> None:
        """Forget what was drafted, for a step of `longest` tokens at most."""
        self.drafted, self.proposed = Drafted(), []
        self.limit = min(self.end - len(self.tokens) - 1, longest)

    def drafts_on(self) -> bool:
        """Ask the policy for the goal; return whether it lies ahead."""
        goal = self.guarded.gamma(self.drafted)
        self.goal = goal if goal < self.limit else self.limit
        return self.goal > len(self.proposed)

    def propose(self, read: Sequence[Sequence[Drawn]]) -> None:
        """Take over what the draft wrote up to the goal, as far as it is read and its logits are numbers.

        Args:
            read: of every place in the step, the tokens of all rows.
        """
        if self.guarded.draft_failed:
            return
        for drawn in read[len(self.proposed) : self.goal]:
            signals, token, _ = drawn[self.place]
            if not signals.known:
                self.guarded.drop_draft(FloatingPointError("its logits are not finite"))
                return
            self.drafted.tokens.append(signals)
            self.proposed.append(token)

    def to_verify(self) -> list[float]:
        """Return the numbers that decide on the proposals; the step's are used up then."""
        if self.uniforms is None:
            return []
        self.uniforms.take(len(self.proposed))
        return self.uniforms.take(len(self.proposed) + 1)

    def learn(self, verified: Verified, times: tuple[float, float]) -> None:
        """Tell the policy what became of a step.

        Raises:
            TargetError: if the target's logits are no numbers.
        """
        if math.isnan(verified.signals[1]):
            raise no_numbers(len(self.tokens) + verified.accepted + verified.spared)
        if not self.follows:
            spares = len(self.spares), verified.spared
            self.guarded.observe(Outcome(len(self.proposed), verified.accepted, *verified.signals, *times, *spares))

    def commit(self, verified: Verified, drafted: int) -> TextStep:
        """Take over what became of a step in which the draft wrote `drafted` tokens in every row."""
        gamma, (accepted, own, _) = len(self.proposed), verified
        kept, ended = _until_end(self.tokens, [*self.proposed[:accepted], *own], self.eos, self.stop)
        self.tokens += kept
        self.ended = ended or len(self.tokens) >= self.end
        # The draft has seen the text up to its own last token but one, as far as they stand.
        self.unseen = accepted + len(own) - min(accepted, drafted - 1) if drafted else self.unseen + 1
        return TextStep(self.number, Step(kept, gamma, accepted, self.drafted, verified.spared), self.ended)


def _check_room(pair: GraphPair, rows: Sequence[_Row]) -> None:
    """Refuse a text that would be written beyond its row, into the next one."""
    longest = max(row.end for row in rows)
    if longest > pair.capacity:
        raise SpeckvError(
            f"a text of {longest} tokens is longer than the {pair.capacity} planned: plan for the longest"
        )


def _step(
    pair: GraphPair, rows: Sequence[_Row], ahead: float | None, timed: bool
) -> tuple[list[TextStep], float | None]:
    """Do a step of all rows.

    Args:
        pair: whose other rows rest.
        rows: at work.
        ahead: seconds that the last step spent after its verification, while the device began to draft this one's
            first token; they are this one's drafting, too. None if it did not. The caller's own time does not count.
        timed: whether the rows may learn what the step took.

    Returns:
        What each row did, and `ahead` of the next step.
    """
    start = time.perf_counter() - (ahead or 0.0)
    drafted, unasked = _draft(pair, rows, int(ahead is not None))
    gammas, uniforms = [RESTS] * pair.texts, [list[float]()] * pair.texts
    for row in rows:
        gammas[row.place], uniforms[row.place] = len(row.proposed), row.to_verify()
    longest = max(gammas)
    spares = _choose_spares(pair, rows)
    middle = time.perf_counter()
    with targets_own(max([len(row.tokens) for row in rows])):
        pair.verify(gammas, uniforms, spares)
        drafting = [row for row in rows if row.limit > len(row.proposed) and not row.guarded.draft_failed]
        begun = longest > 0 and bool(drafting) and _draft_ahead(pair, drafting, _to_draft(pair, rows, 0))
        for row in unasked:
            row.drafts_on()
        verified = pair.verified()
    end = time.perf_counter()
    times = (middle - start) * 1e3, (end - middle) * 1e3
    for row in rows:
        row.learn(verified[row.place], times if timed and len(row.proposed) == longest else UNKNOWN)
    if begun:
        _give_rules(pair, rows)  # at once: the device may need them soon
    steps = [row.commit(verified[row.place], drafted) for row in rows]
    return steps, time.perf_counter() - end if begun else None


def _choose_spares(pair: GraphPair, rows: Sequence[_Row]) -> dict[int, list[int]]:
    """Return the places where a text that is alone wants spares; beside others, what it verifies costs all of them."""
    if pair.texts > 1 or not pair.sampling.greedy:
        return {}
    (row,) = rows
    row.spares = row.guarded.spares(row.drafted)[: pair.longest - len(row.proposed)]
    return {row.place: row.spares} if row.spares else {}


def _draft_ahead(pair: GraphPair, rows: Sequence[_Row], uniforms: Sequence[float]) -> bool:
    """Begin to draft the next step's first token; return whether it is under way."""
    try:
        pair.draft(0, 2, uniforms, ahead=True)
    except Exception as error:
        _drop_draft(rows, error)
        return False
    return True


def _to_draft(pair: GraphPair, rows: Sequence[_Row], slot: int) -> list[float]:
    """Return the numbers that a draft call draws with: none greedily; those of other rows mean nothing."""
    if pair.sampling.greedy:
        return []
    numbers = [0.0] * pair.texts
    for row in rows:
        if row.uniforms:
            numbers[row.place] = row.uniforms.ahead(slot + 1)[slot]
    return numbers


def _drop_draft(rows: Sequence[_Row], error: Exception) -> None:
    """Draft nothing any more in these texts; see `runtime.loop.propose`."""
    for row in rows:
        row.guarded.drop_draft(error)


def _draft(pair: GraphPair, rows: Sequence[_Row], begun: int) -> tuple[int, Sequence[_Row]]:
    """Draft until every row has enough.

    Args:
        pair: see `_step`.
        rows: at work.
        begun: tokens that were begun before.

    Returns:
        How many tokens the draft wrote, and the rows whose policies are still to be asked whether that is enough.
    """
    for row in rows:
        row.begin_step(pair.longest)
    drafting = [row for row in rows if not row.guarded.draft_failed]
    unseen = max((row.unseen for row in drafting), default=1)
    rows = asked = _panel(drafting)
    if not begun:
        _give_rules(pair, rows)
    followers = [row for row in drafting if row.follows]
    read: list[list[Drawn]] = []
    while further := [row for row in rows if row.drafts_on()]:
        longest = _wanted(asked, {row.place: row.goal for row in further})
        further = [row for row in further if len(row.proposed) < longest]
        if not further:
            break
        proposing = further + followers
        begun, failure = _begin(pair, proposing, begun, longest, unseen)
        failure = _read(pair, read, min(begun, longest)) or failure
        foreseen = _foreseen(asked, further, read)
        if foreseen and not failure:
            begun, failure = _begin(pair, proposing, begun, foreseen, unseen)
        # What was drawn before is proposed all the same: to leave out a token for what came after it biases sampling.
        for row in followers:
            row.goal = min(longest, row.limit)
        for row in proposing:
            row.propose(read)
        if failure:
            _drop_draft([*rows, *followers], failure)
            break
        if foreseen == longest:
            return begun, further
        rows = further
    return begun, []


def _give_rules(pair: GraphPair, rows: Sequence[_Row]) -> None:
    """Let the device foresee what policies answer in the step to come."""
    rules = {}
    for row in rows:
        rule = None if row.follows else row.guarded.device_rule()
        row.ruled = row.guarded.policy if rule else None
        if rule:
            rules[row.place] = rule
    with targets_own(max([len(row.tokens) for row in rows], default=0)):
        pair.give_rules(rules)


def _foreseen(asked: Sequence[_Row], further: Sequence[_Row], read: Sequence[Sequence[Drawn]]) -> int | None:
    """Return how many tokens will be wanted, those read or more; None where the device cannot tell.

    Args:
        asked: see `_wanted`.
        further: the rows that get tokens that are just read.
        read: see `_Row.propose`.
    """
    goals = {}
    for row in further:
        if row.goal > len(read) or row.ruled is not row.guarded.policy:
            return None
        goes_on = read[row.goal - 1][row.place].goes_on
        if math.isnan(goes_on):
            return None
        goals[row.place] = min(row.goal + int(goes_on), row.limit)
    return max(_wanted(asked, goals), len(read))


def _panel(rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows whose policies are asked; the others follow."""
    weighing = sorted([row for row in rows if row.guarded.weighs_time], key=lambda row: row.place)
    followers = {row.place for row in weighing[PANEL:]}
    for row in rows:
        if row.follows and row.place not in followers:
            row.guarded.begin()  # what it was told last is long past
        row.follows = row.place in followers
    return [row for row in rows if not row.follows]


def _wanted(rows: Sequence[_Row], goals: Mapping[int, int]) -> int:
    """Return how many tokens to draft before asking again: what half of `rows` want, and who does not weigh time.

    Args:
        rows: that are asked, or were in this step.
        goals: row → tokens that it wants now.
    """
    if len(rows) == 1:
        return goals[rows[0].place]
    all_ = sorted([goals.get(row.place, max(row.goal, len(row.proposed))) for row in rows], reverse=True)
    firm = [goals[row.place] for row in rows if row.place in goals and not row.guarded.weighs_time]
    return max([all_[(len(all_) - 1) // 2], *firm])


def _begin(
    pair: GraphPair, rows: Sequence[_Row], begun: int, longest: int, unseen: int
) -> tuple[int, Exception | None]:
    """Begin to draft up to `longest` tokens a row; return how many are begun then, and what failed."""
    try:
        for slot in range(begun, longest):
            pair.draft(slot, unseen, _to_draft(pair, rows, slot))
            begun = slot + 1
    except Exception as error:
        return begun, error
    return begun, None


def _read(pair: GraphPair, read: list[list[Drawn]], count: int) -> Exception | None:
    """Wait until `count` drafted tokens of every row are read; return what failed."""
    try:
        while len(read) < count:
            read.append(pair.drafted(len(read)))
    except Exception as error:
        return error
    return None


def _until_end(
    text: Sequence[int], tokens: Sequence[int], eos: Collection[int], stop: Ends | None
) -> tuple[list[int], bool]:
    """Return the tokens up to the first that ends the text, and whether one does."""
    kept: list[int] = []
    before = torch.tensor(text) if stop else None
    for token in tokens:
        kept.append(token)
        if token in eos or (stop is not None and before is not None and stop(before, kept)):
            return kept, True
    return kept, False
