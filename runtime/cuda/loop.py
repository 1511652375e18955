"""The greedy loop on a `GraphPair`: the phases of the plain loop, each begun on the device before the host needs it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

import torch

from runtime.cuda.pair import GraphPair
from runtime.loop.commit import Ends
from runtime.loop.generate import Step
from runtime.policies.policy import Drafted, Outcome, Policy


def speculate_greedily(
    pair: GraphPair,
    prompt: Sequence[int],
    policy: Policy,
    *,
    max_new_tokens: int,
    eos: Collection[int] = (),
    stop: Ends | None = None,
) -> Iterator[Step]:
    """Generate the target's greedy tokens; arguments and steps are those of `runtime.loop.generate.speculate`.

    The first token of a step is drafted while the host still reads what became of the step before: the device need
    not wait, and a policy that then drafts nothing has lost one draft forward.
    """
    pair.begin([prompt])
    text = list(prompt)
    seen = len(prompt) - 1  # tokens that the draft has seen
    ahead = False
    policy.begin()
    end = len(prompt) + max_new_tokens
    while len(text) < end:
        start = time.perf_counter()
        drafted, proposed = Drafted(), []
        limit = min(end - len(text) - 1, pair.longest)
        while (goal := min(policy.gamma(drafted), limit)) > drafted.count:
            slots = range(drafted.count, goal)
            for slot in slots:
                if not (slot == 0 and ahead):
                    pair.draft(slot, len(text) - seen)
            for slot in slots:
                ((signals, token),) = pair.drafted(slot)
                drafted.tokens.append(signals)
                proposed.append(token)
        gamma = drafted.count
        if gamma or ahead:
            seen = len(text) + max(gamma - 1, 0)
        middle = time.perf_counter()
        pair.verify([gamma])
        ahead = gamma > 0 and limit > gamma
        if ahead:
            pair.draft(0, 2)
        (verified,) = pair.verified()
        done = time.perf_counter()
        seen = min(seen, len(text) + verified.accepted)
        tokens = [*proposed[: verified.accepted], verified.token]
        policy.observe(
            Outcome(
                gamma,
                verified.accepted,
                *verified.signals,
                draft_ms=(middle - start) * 1e3,
                verify_ms=(done - middle) * 1e3,
            )
        )
        kept, ended = _until_end(text, tokens, eos, stop)
        text += kept
        yield Step(kept, gamma, verified.accepted, drafted)
        if ended:
            return


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
