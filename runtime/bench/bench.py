"""The comparison: check every contender's tokens, then time them in turns, then score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.generate import Plain
from runtime.bench.loop import Loop
from runtime.bench.meeting import Meeting
from runtime.bench.others import other_systems
from runtime.bench.reference import NearTie, Reference
from runtime.bench.score import Runs, Score, compare
from runtime.loop.backend import choose_backend
from runtime.loop.generate import check_context
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.pair.draft import load_draft
from runtime.pair.target import load_target
from runtime.policies.registry import TIMED, make_policy
from runtime.profile.start_up import start_up_times
from runtime.prompts import Prompt


@dataclass(frozen=True)
class Plan:
    """What to compare."""

    draft: str | None
    target: str | None
    policies: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    repeats: int
    device: str


@dataclass(frozen=True)
class ContenderResult:
    """What one contender did."""

    name: str
    agreement: float
    """Share of the plain tokens that it gave, each prompt's up to the first that differs."""
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
    loop: str
    """What the policies' loop ran on; see `Backend.why`."""
    step_times_ms: dict[str, dict[int, float]] | None
    """What the policies that weigh time were given: model → tokens in the call → milliseconds; None without one."""
    best_fixed: dict[str, str]
    """Task → the fastest fixed gamma of those that ran; empty where none did."""
    near_ties: list[NearTie]
    left_out: dict[str, str]
    """Contender → why it did not run."""
    contenders: list[ContenderResult]


def bench(
    plan: Plan, precision: str, announce: Callable[[str, int | None], None], advance: Callable[[], None]
) -> Comparison:
    """Compare all contenders with the target in one precision.

    Every contender decodes each prompt once untimed, which warms up and proves the tokens equal (in fp32; in other
    precisions they are counted). A policy keeps its state from there on, as in a server that has been up for a while.

    Args:
        plan: what to compare.
        precision: of the target.
        announce: told what begins, and how many runs there will be in all once that is known.
        advance: called after each run.

    Raises:
        SpeckvError: if a model cannot be loaded, a text does not fit into it, or a contender's tokens are not the
            target's.
    """
    announce("loading", None)
    target = load_target(plan.target, precision, plan.device)
    draft = load_draft(plan.draft, target)
    encoded = [target.encode(prompt.text) for prompt in plan.prompts]
    check_context(*cached_pair(draft, target.model), max(map(len, encoded)), plan.max_new_tokens)
    longest = max(map(len, encoded)) + plan.max_new_tokens
    announce("preparing the loop", None)
    backend = choose_backend(draft, target.model, longest, Sampling())
    times = None
    if any(name in TIMED for name in plan.policies):
        times = start_up_times(
            plan.draft, draft, target, lambda: announce("measuring step times", None), backend.graphs
        )
    loops: list[Contender] = [
        Loop(name, backend, target.eos, make_policy(name, target.compression, times)) for name in plan.policies
    ]
    clock = Clock(target.model.get_input_embeddings().weight.device)
    announce("trying other systems", None)
    others, left_out = other_systems(draft, target, encoded[0], clock)
    reference = Reference(target, exact=precision == "fp32")
    contenders = [Plain(target), *others, *loops]
    meeting = Meeting(contenders, plan.prompts, encoded, plan.max_new_tokens, reference, clock, advance)
    announce("checking tokens", meeting.runs(plan.repeats))
    agreeing = meeting.check()
    announce("timing", meeting.runs(plan.repeats))
    runs = meeting.time(plan.repeats)
    best_fixed, scores = compare(runs)
    plain = sum(len(tokens) for tokens in reference.tokens.values())
    return Comparison(
        precision=precision,
        loop=backend.why,
        step_times_ms=None if times is None else {"draft": times.draft, "target": times.target},
        best_fixed=best_fixed,
        near_ties=sorted(reference.near_ties, key=lambda tie: (tie.prompt, tie.position, tie.contender)),
        left_out=left_out,
        contenders=[
            ContenderResult(name, agreeing[name] / plain, clock.peak_bytes(name), scores[name], runs[name])
            for name in runs
        ],
    )
