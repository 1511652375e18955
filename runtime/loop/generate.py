"""The loop: propose → verify → accept → commit, until the end of the text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from runtime.errors import SpeckvError
from runtime.loop.accept import accept_greedy, accept_sampled
from runtime.loop.commit import commit
from runtime.loop.propose import Proposal, propose
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import Scorer
from runtime.loop.verify import verify
from runtime.policies.policy import Drafted, Outcome, Policy


@dataclass(frozen=True)
class Step:
    """What one step did."""

    tokens: list[int]
    """The committed tokens, accepted ones and the target's own; at least one."""
    gamma: int
    """Tokens drafted."""
    accepted: int
    """Drafted tokens that stand, in [0, gamma]."""
    drafted: Drafted
    """The signals of the drafted tokens."""


def speculate(
    draft: Scorer,
    target: Scorer,
    prompt: Sequence[int],
    policy: Policy,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    eos: Collection[int] = (),
    seed: int = 0,
) -> Iterator[Step]:
    """Generate with the target's own distribution, step by step (Leviathan 2023; Chen 2023).

    Greedy, the tokens are those the target decodes alone; sampling, they have the target's distribution, whatever
    the draft and the policy do. Both scorers must be empty.

    Args:
        draft: proposes.
        target: verifies.
        prompt: token ids, at least one.
        policy: chooses gamma.
        max_new_tokens: tokens to generate at most.
        sampling: greedy by default.
        eos: token ids that end the text.
        seed: of the draws when sampling.

    Raises:
        SpeckvError: if the prompt is empty, or does not fit into a context together with the new tokens.
    """
    if not prompt:
        raise SpeckvError("the prompt has no tokens: give at least one")
    _check_context(draft, target, len(prompt), max_new_tokens)
    sampling = sampling or Sampling()
    # The draws are made on the host, so that one seed gives one text on every device.
    generator = torch.Generator().manual_seed(seed)
    context = torch.tensor(prompt, device=target.device)
    if len(context) > 1:
        target.score(context[:-1], keep=1)
    remaining = max_new_tokens
    policy.begin()
    while remaining > 0:
        pending = context[draft.length :].to(draft.device)
        # The target adds a token of its own, so drafting the last one would be for nothing.
        proposal = propose(draft, pending, policy, remaining - 1, sampling, generator)
        logits = verify(target, context[-1:], proposal.tokens.to(target.device))
        accepted, own = _accept(logits, proposal, sampling, generator)
        policy.observe(Outcome(len(proposal.tokens), accepted))
        new = [*proposal.tokens[:accepted].tolist(), own]
        context, kept = commit(context, new, (draft, target), eos)
        remaining -= len(kept)
        yield Step(kept, len(proposal.tokens), accepted, proposal.drafted)
        if kept[-1] in eos:
            return


def _check_context(draft: Scorer, target: Scorer, prompt: int, new: int) -> None:
    for name, scorer in (("draft", draft), ("target", target)):
        if scorer.capacity is not None and prompt + new > scorer.capacity:
            raise SpeckvError(
                f"a prompt of {prompt} tokens and {new} new ones do not fit into the {name}'s context of "
                f"{scorer.capacity} tokens: shorten the prompt or ask for fewer new tokens"
            )


def _accept(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> tuple[int, int]:
    proposed = proposal.tokens.to(logits.device)
    if sampling.greedy:
        return accept_greedy(logits, proposed)
    uniforms = torch.rand(len(proposed) + 1, generator=generator, dtype=torch.float64).to(logits.device)
    q = None if proposal.q is None else proposal.q.to(logits.device)
    return accept_sampled(sampling.probabilities(logits), q, proposed, uniforms)
