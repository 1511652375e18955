"""The loop: propose → verify → accept → commit, until the end of the text."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.errors import SpeckvError
from runtime.loop.accept import accept_greedy, accept_sampled, left_behind
from runtime.loop.commit import Ends, commit
from runtime.loop.failure import no_numbers, targets_own
from runtime.loop.propose import Proposal, propose
from runtime.loop.sampling import Sampling, TokenChoice
from runtime.loop.scorer import Scorer
from runtime.loop.verify import verify
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Drafted, Outcome, Policy


class Step(NamedTuple):
    """What one step did."""

    tokens: list[int]
    """The committed tokens, accepted ones and the target's own; at least one."""
    gamma: int
    """Tokens drafted."""
    accepted: int
    """Drafted tokens that stand, in [0, gamma]."""
    drafted: Drafted
    """The signals of the drafted tokens."""
    spared: bool = False
    """Whether the draft's second choice stands where its first was rejected, and one more token after it."""


def speculate(
    draft: Scorer,
    target: Scorer,
    prompt: Sequence[int],
    policy: Policy,
    *,
    max_new_tokens: int,
    sampling: TokenChoice | None = None,
    eos: Collection[int] = (),
    stop: Ends | None = None,
    seed: int | torch.Generator = 0,
) -> Iterator[Step]:
    """Generate with the target's own distribution, step by step (Leviathan 2023; Chen 2023).

    Greedy, the tokens are those the target decodes alone; sampling, they have the target's distribution, whatever
    the draft and the policy do. Both scorers must be empty. A policy or a draft that fails is dropped for the rest of
    the text (`Guarded`), and the user is told.

    Args:
        draft: proposes.
        target: verifies.
        prompt: token ids, at least one.
        policy: chooses gamma.
        max_new_tokens: tokens to generate at most.
        sampling: greedy by default.
        eos: token ids that end the text.
        stop: what else ends it.
        seed: of the draws when sampling; or a generator on the CPU, to go on with.

    Raises:
        SpeckvError: if the prompt is empty, or does not fit into a context together with the new tokens.
        TargetError: if the target fails; the steps before it stand.
    """
    check_text(draft, target, prompt, max_new_tokens)
    guarded = Guarded(policy)
    choice = sampling or Sampling()
    # The draws are made on the host, so that one seed gives one text on every device.
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    context = torch.tensor(prompt, device=target.device)
    if len(context) > 1:
        with targets_own(0):
            target.score(context[:-1], keep=1)
    remaining = max_new_tokens
    guarded.begin()
    while remaining > 0:
        start = time.perf_counter()
        # The target adds a token of its own, so drafting the last one would be for nothing.
        proposal = propose(draft, context, guarded, remaining - 1, choice, generator)
        drafted = time.perf_counter()
        with targets_own(len(context)):
            logits = verify(target, context[-1:], proposal.tokens.to(target.device))
        with targets_own(len(context), torch.OutOfMemoryError):
            new, signals = _accept(logits, context, proposal, choice, generator)
        draft_ms, verify_ms = (drafted - start) * 1e3, (time.perf_counter() - drafted) * 1e3
        gamma, accepted = len(proposal.tokens), len(new) - 1
        guarded.observe(Outcome(gamma, accepted, *signals, draft_ms=draft_ms, verify_ms=verify_ms))
        context, kept, ended = commit(context, new, target, eos, stop)
        remaining -= len(kept)
        yield Step(kept, gamma, accepted, proposal.drafted)
        if ended:
            return


def check_text(draft: Scorer, target: Scorer, prompt: Sequence[int], new: int) -> None:
    """Refuse a prompt without tokens, and one that does not fit into both contexts together with `new` tokens.

    Raises:
        SpeckvError: saying which.
    """
    if not prompt:
        raise SpeckvError("the prompt has no tokens: give at least one")
    check_context(draft, target, len(prompt), new)


def check_context(draft: Scorer, target: Scorer, prompt: int, new: int) -> None:
    """Refuse `new` tokens after `prompt` ones where they do not fit into both contexts.

    Raises:
        SpeckvError: naming the model whose context is too short.
    """
    for name, scorer in (("draft", draft), ("target", target)):
        if scorer.capacity is not None and prompt + new > scorer.capacity:
            raise SpeckvError(
                f"a prompt of {prompt} tokens and {new} new ones do not fit into the {name}'s context of "
                f"{scorer.capacity} tokens: shorten the prompt or ask for fewer new tokens"
            )


def _accept(
    logits: Tensor, context: Tensor, proposal: Proposal, choice: TokenChoice, generator: torch.Generator
) -> tuple[list[int], tuple[float, float, float]]:
    """Return the new tokens (the accepted ones and the target's own), and what `left_behind` says at the last one.

    Raises:
        TargetError: if no token can be chosen from the target's logits.
    """
    proposed = proposal.tokens.to(logits.device)
    scores = choice.scores(logits, context, proposed.unbind())
    if choice.greedy:
        accepted, own = accept_greedy(scores, proposed)
        chosen_from = scores.amax(-1)  # NaN where any logit is
    else:
        uniforms = torch.rand(len(proposed) + 1, generator=generator, dtype=torch.float64).to(logits.device)
        q = None if proposal.q is None else proposal.q.to(logits.device)
        p = torch.softmax(scores, -1)
        accepted, own = accept_sampled(p, q, proposed, uniforms)
        chosen_from = p[:, 0]  # likewise, and where one is infinite
    signals = left_behind(logits, proposal.logits, accepted)
    # The one transfer to the host, and wait for the device, of the phase; float64 holds every token id exactly.
    results = torch.cat([signals.double(), accepted[None], own[None], proposed, chosen_from.isnan()]).tolist()
    entropy, top1, distance, *whole = results
    count, last, *rest = map(int, whole)
    tokens, unknown = rest[: len(proposed)], rest[len(proposed) :]
    if any(unknown[: count + 1]):
        raise no_numbers(len(context) + unknown.index(1))
    return [*tokens[:count], last], (entropy, top1, distance)
