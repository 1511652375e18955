"""The greedy loop on a `GraphPair`: the phases of the plain loop, each begun on the device before the host needs it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence

import torch

from runtime.cuda.pair import GraphPair
from runtime.loop.commit import Ends
from runtime.loop.failure import no_numbers, targets_own
from runtime.loop.generate import Step
from runtime.policies.guarded import Guarded
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

    Raises:
        TargetError: if the pair fails; the steps before it stand.
    """
    with targets_own(0):
        pair.begin([prompt])
    guarded = Guarded(policy)
    text = list(prompt)
    seen = len(prompt) - 1  # tokens that the draft has seen
    ahead = False
    guarded.begin()
    end = len(prompt) + max_new_tokens
    while len(text) < end:
        start = time.perf_counter()
        drafted, proposed = Drafted(), []
        limit = min(end - len(text) - 1, pair.longest)
        try:
            while (goal := min(guarded.gamma(drafted), limit)) > drafted.count:
                slots = range(drafted.count, goal)
                for slot in slots:
                    if not (slot == 0 and ahead):
                        pair.draft(slot, len(text) - seen)
                for slot in slots:
                    ((signals, token),) = pair.drafted(slot)
                    if not signals.known:
                        raise FloatingPointError("its logits are not finite")
                    drafted.tokens.append(signals)
                    proposed.append(token)
        except Exception as error:  # as in `propose`
            guarded.drop_draft(error)
        gamma = drafted.count
        if gamma or ahead:
            seen = len(text) + max(gamma - 1, 0)
        middle = time.perf_counter()
        with targets_own(len(text)):
            pair.verify([gamma])
            ahead = 0 < gamma < limit and not guarded.draft_failed and _draft_ahead(pair, guarded)
            (verified,) = pair.verified()
        if math.isnan(verified.signals[1]):
            raise no_numbers(len(text) + verified.accepted)
        done = time.perf_counter()
        seen = min(seen, len(text) + verified.accepted)
        tokens = [*proposed[: verified.accepted], verified.token]
        guarded.observe(
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


def _draft_ahead(pair: GraphPair, guarded: Guarded) -> bool:
    """Begin to draft the next step's first token; return whether it is under way."""
    try:
        pair.draft(0, 2)
    except Exception as error:
        guarded.drop_draft(error)
        return False
    return True


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
