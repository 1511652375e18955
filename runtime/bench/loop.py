"""This project's loop with one policy."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from runtime.bench.contender import Generation
from runtime.loop.generate import speculate
from runtime.loop.scorer import cached_pair
from runtime.pair.target import Target
from runtime.policies.policy import Policy


class Loop:
    """The live loop; its one policy object sees every text in turn."""

    def __init__(self, name: str, draft: PreTrainedModel, target: Target, policy: Policy) -> None:
        self.name = name
        self.draft, self.target, self.policy = draft, target, policy

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        scorers = cached_pair(self.draft, self.target.model)
        steps = list(
            speculate(*scorers, prompt, self.policy, max_new_tokens=new_tokens, eos=self.target.eos),
        )
        tokens = [token for step in steps for token in step.tokens]
        return Generation(tokens, len(steps), sum(step.gamma for step in steps))
