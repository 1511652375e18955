"""The contenders meet: every prompt, every contender, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.reference import Reference
from runtime.bench.score import Runs
from runtime.prompts import Prompt


@dataclass
class Meeting:
    """Contenders and what they decode.

    Args:
        contenders: the first gives the reference's tokens.
        prompts: to decode.
        encoded: token ids of each prompt.
        new_tokens: of each prompt at most.
        reference: what the tokens are compared with.
        clock: times the runs.
        advance: called after every run.
    """

    contenders: Sequence[Contender]
    prompts: Sequence[Prompt]
    encoded: Sequence[Sequence[int]]
    new_tokens: int
    reference: Reference
    clock: Clock
    advance: Callable[[], None] = lambda: None

    def runs(self, repeats: int) -> int:
        """Return how many runs `check` and `time` make together."""
        return len(self.prompts) * len(self.contenders) * (1 + repeats)

    def check(self) -> dict[str, int]:
        """Decode every prompt once with each contender, untimed; return how many tokens of each agree.

        Raises:
            SpeckvError: see `Reference.agreeing`.
        """
        agreeing = dict.fromkeys((contender.name for contender in self.contenders), 0)
        for prompt, ids in zip(self.prompts, self.encoded, strict=True):
            for contender in self.contenders:
                tokens = self.clock.time(contender, ids, self.new_tokens)[0].tokens
                self.reference.tokens.setdefault(prompt.index, tokens)
                agreeing[contender.name] += self.reference.agreeing(contender.name, prompt, ids, tokens)
                self.advance()
        return agreeing

    def time(self, repeats: int) -> dict[str, list[Runs]]:
        """Time every contender on every prompt in every repeat; return contender → runs of each prompt.

        The contenders take turns on each prompt and another one begins every time, so that a machine that slows
        down, or one contender's traces in its caches, meet all of them alike.

        Raises:
            SpeckvError: see `Reference.agreeing`.
        """
        results = {c.name: [Runs(prompt.index, prompt.task) for prompt in self.prompts] for c in self.contenders}
        places = range(len(self.prompts))
        for turn, place in enumerate(place for _ in range(repeats) for place in places):
            first = turn % len(self.contenders)
            for contender in [*self.contenders[first:], *self.contenders[:first]]:
                self._time_one(contender, place, results[contender.name][place])
                self.advance()
        return results

    def _time_one(self, contender: Contender, place: int, runs: Runs) -> None:
        prompt, ids = self.prompts[place], self.encoded[place]
        generation, seconds = self.clock.time(contender, ids, self.new_tokens)
        self.reference.agreeing(contender.name, prompt, ids, generation.tokens)
        runs.seconds.append(seconds)
        runs.tokens.append(len(generation.tokens))
        runs.steps.append(generation.steps)
        runs.drafted.append(generation.drafted)
