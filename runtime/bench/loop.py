"""This project's loop with one policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime.bench.contender import Generation
from runtime.loop.backend import Backend
from runtime.policies.policy import Policy


class Loop:
    """The live loop; its one policy object sees every text in turn."""

    def __init__(self, name: str, backend: Backend, eos: Collection[int], policy: Policy) -> None:
        self.name = name
        self.backend, self.eos, self.policy = backend, eos, policy

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        steps = list(self.backend.steps(prompt, self.policy, max_new_tokens=new_tokens, eos=self.eos))
        tokens = [token for step in steps for token in step.tokens]
        return Generation(tokens, len(steps), sum(step.gamma for step in steps))
