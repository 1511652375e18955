"""Who takes part: the loaded pair, the loop with each policy, and the other systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.loop import Loop
from runtime.bench.others import other_systems
from runtime.bench.plan import Plan
from runtime.bench.roofline import Limit, cache_bytes, pair_limit, stored_bytes
from runtime.loop.backend import Backend, choose_backend
from runtime.loop.generate import check_context
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.registry import TIMED, make_policy
from runtime.policies.step_times import StepTimes
from runtime.profile.start_up import start_up_times


@dataclass(frozen=True)
class LineUp:
    """All that a comparison works with."""

    target: Target
    encoded: list[list[int]]
    """Token ids of each prompt."""
    backend: Backend
    times: StepTimes | None
    """What the policies that weigh time were given; None without one."""
    contenders: list[Contender]
    left_out: dict[str, str]
    """Contender → why it does not take part."""
    limit: Limit
    expected_bytes: int
    """Weights of the pair as they are stored, and caches for the longest text."""
    clock: Clock


def line_up(plan: Plan, precision: str, announce: Callable[[str], None]) -> LineUp:
    """Load the pair and prepare all contenders.

    Args:
        plan: what to compare.
        precision: of the target.
        announce: told what begins.

    Raises:
        SpeckvError: if a model cannot be loaded, or a text does not fit into it.
    """
    announce("loading the models")
    target = load_target(plan.target, precision, plan.device)
    draft = load_draft(plan.draft, target)
    encoded = [target.encode(prompt.text) for prompt in plan.prompts]
    check_context(*cached_pair(draft, target.model), max(map(len, encoded)), plan.max_new_tokens)
    longest = max(map(len, encoded)) + plan.max_new_tokens
    announce("measuring the bandwidth")
    limit = pair_limit(draft, target.model)
    clock = Clock(target.model.get_input_embeddings().weight.device)
    announce("preparing the loop; kernels are compiled the first time")
    backend = choose_backend(draft, target.model, longest, Sampling())
    times = _times(plan, backend, target, announce)
    clock.prepared(plan.policies)
    others, left_out = other_systems(plan.systems, draft, target, encoded[0], longest, clock, announce)
    loops = [Loop(name, backend, target.eos, make_policy(name, target.compression, times)) for name in plan.policies]
    return LineUp(
        target=target,
        encoded=encoded,
        backend=backend,
        times=times,
        contenders=[*others, *loops],
        left_out=left_out,
        limit=limit,
        expected_bytes=_expected(draft, target.model, longest),
        clock=clock,
    )


def _times(plan: Plan, backend: Backend, target: Target, announce: Callable[[str], None]) -> StepTimes | None:
    if not any(name in TIMED for name in plan.policies):
        return None
    return start_up_times(plan.draft, backend.draft, target, lambda: announce("measuring step times"), backend.graphs)


def _expected(draft: PreTrainedModel, target: PreTrainedModel, longest: int) -> int:
    return stored_bytes(draft, target) + longest * (cache_bytes(draft) + cache_bytes(target))
