"""The comparison: check every contender's tokens, then time them in turns, then score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.bench.generate import Plain
from runtime.bench.line_up import LineUp, line_up
from runtime.bench.meeting import Meeting
from runtime.bench.plan import Plan
from runtime.bench.reference import NearTie, Reference
from runtime.bench.score import Runs, Score, compare
from runtime.prompts import OVERALL


@dataclass(frozen=True)
class ContenderResult:
    """What one contender did."""

    name: str
    agreement: float
    """In fp32 the share of the plain tokens that it gave, each prompt's up to the first that differs; else the share of
    its tokens that the target ranks first after the text before them. Of the checked runs."""
    repeats: int
    """Timed runs of each prompt at least; 0 where the checked run is the one that is timed, see `bench`."""
    limit_tokens_per_second: float
    """What reading alone would allow, with the steps and drafts that it made; see `Limit`."""
    bandwidth_share: float
    """Tokens per second over that limit."""
    peak_memory_bytes: int | None
    """On the device, weights included; None on the CPU."""
    scores: dict[str, Score]
    """Task → score; "overall" is all prompts."""
    runs: list[Runs]
    """What the scores are made of, a prompt each."""


@dataclass(frozen=True)
class Comparison:
    """Every contender with the target in one precision."""

    precision: str
    complete: bool
    """Whether all was done that was planned: else there are fewer prompts or repeats, all of them compared."""
    loop: str
    """What the policies' loop ran on; see `Backend.why`."""
    step_times_ms: dict[str, dict[int, float]] | None
    """What the policies that weigh time were given: model → tokens in the call → milliseconds; None without one."""
    copy_bytes_per_second: float
    """Bandwidth of a copy on the device, read and written bytes together."""
    weights_and_caches_bytes: int
    """Of the pair, as stored, with caches for the longest text: what peak memory is to be compared with."""
    best_fixed: dict[str, str]
    """Task → the fastest fixed gamma of those that ran; empty where none did."""
    near_ties: list[NearTie]
    left_out: dict[str, str]
    """Contender → why it did not run."""
    contenders: list[ContenderResult]


@dataclass(frozen=True)
class Progress:
    """Whom a comparison tells how far it is."""

    announce: Callable[[str, int | None], None]
    """What begins, and how many runs there will be in all once that is known."""
    advance: Callable[[], None]
    """After each run."""
    keep: Callable[[Comparison], None]
    """What there is after each checked prompt and each round, and where it is interrupted."""


def bench(plan: Plan, precision: str, progress: Progress) -> Comparison:
    """Compare all contenders with the target in one precision.

    Every contender decodes each prompt once, which warms up and proves the tokens equal (in fp32; in other precisions
    those that are the target's own are counted). Then the prompts are repeated and timed. Where `plan.seconds` does not
    last for a single round of a slow contender's repeats, the run that was checked is the one that counts for it: its
    warm-up was a trial of two tokens. A policy keeps its state from the check on, as in a server that has been up for a
    while.

    Args:
        plan: what to compare.
        precision: of the target.
        progress: told how far it is.

    Raises:
        SpeckvError: if a model cannot be loaded, a text does not fit into it, or a contender's tokens are not the
            target's.
    """
    field = line_up(plan, precision, lambda what: progress.announce(what, None))
    reference = Reference(field.target, exact=precision == "fp32")
    meeting = Meeting(
        Plain(field.target), field.contenders, plan.prompts, field.encoded, plan.max_new_tokens, reference, field.clock,
        progress.advance,
    )  # fmt: skip

    def so_far() -> Comparison:
        return _comparison(precision, field, meeting, complete=False)

    try:
        progress.announce("checking tokens", meeting.checks)
        for _ in meeting.check():
            progress.keep(so_far())
        repeats = meeting.repeats(plan.repeats, plan.seconds)
        progress.announce("timing", meeting.checks + len(plan.prompts) * sum(repeats.values()))
        for _ in meeting.time(repeats):
            progress.keep(so_far())
    except KeyboardInterrupt:
        if meeting.finished:
            progress.keep(so_far())
        raise
    return _comparison(precision, field, meeting, complete=True)


def _comparison(precision: str, field: LineUp, meeting: Meeting, complete: bool) -> Comparison:
    """Score what there is."""
    runs = meeting.runs()
    best_fixed, scores = compare(runs)
    ties = meeting.reference.near_ties
    return Comparison(
        precision=precision,
        complete=complete,
        loop=field.backend.why,
        step_times_ms=None if field.times is None else {"draft": field.times.draft, "target": field.times.target},
        copy_bytes_per_second=field.limit.bandwidth,
        weights_and_caches_bytes=field.expected_bytes,
        best_fixed=best_fixed,
        near_ties=sorted(ties, key=lambda tie: (tie.prompt, tie.position, tie.contender)),
        left_out=field.left_out,
        contenders=[_contender(name, field, meeting, runs[name], scores[name]) for name in runs],
    )


def _contender(
    name: str, field: LineUp, meeting: Meeting, runs: list[Runs], scores: dict[str, Score]
) -> ContenderResult:
    prompts = [len(ids) for ids in field.encoded[: len(runs)]]
    limit = field.limit.tokens_per_second(runs, prompts)
    return ContenderResult(
        name=name,
        agreement=sum(meeting.agreeing[name][: len(runs)]) / meeting.compared(name),
        repeats=meeting.repeated(name),
        limit_tokens_per_second=limit,
        bandwidth_share=scores[OVERALL].tokens_per_second / limit,
        peak_memory_bytes=field.clock.peak_bytes(name),
        scores=scores,
        runs=runs,
    )
