"""The contenders meet: every prompt, every contender, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.reference import Reference
from runtime.bench.score import Runs
from runtime.prompts import Prompt


@dataclass
class Meeting:
    """Contenders and what they decode.

    Args:
        plain: gives the reference's tokens where it is exact; timed only if it is one of the contenders.
        contenders: take turns.
        prompts: to decode.
        encoded: token ids of each prompt.
        new_tokens: of each prompt at most.
        reference: what the tokens are compared with.
        clock: times the runs.
        advance: called after every run.
    """

    plain: Contender
    contenders: Sequence[Contender]
    prompts: Sequence[Prompt]
    encoded: Sequence[Sequence[int]]
    new_tokens: int
    reference: Reference
    clock: Clock
    advance: Callable[[], None] = lambda: None
    agreeing: dict[str, list[int]] = field(init=False)
    """Contender → tokens that are the target's own, a prompt each, as far as they are checked."""

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        self.agreeing = {name: [] for name in names}
        self._first = [self.plain] if self.reference.exact or self.plain.name in names else []
        self._checked = {contender.name: self._no_runs() for contender in (*self._first, *self.contenders)}
        self._repeated = {name: self._no_runs() for name in names}

    def _no_runs(self) -> list[Runs]:
        return [Runs(prompt.index, prompt.task) for prompt in self.prompts]

    @property
    def checks(self) -> int:
        """Runs that `check` makes."""
        return len(self.prompts) * len(self._checked)

    def check(self) -> Iterator[int]:
        """Decode every prompt once with each contender, compare the tokens, warm up; yields after every prompt.

        Raises:
            SpeckvError: see `Reference.agreeing`.
        """
        others = [contender for contender in self.contenders if contender.name != self.plain.name]
        for place, prompt in enumerate(self.prompts):
            for contender in (*self._first, *others):
                tokens = self._run(contender, place, self._checked[contender.name][place])
                if contender is self.plain:
                    self.reference.tokens[prompt.index] = tokens
                if contender.name in self.agreeing:
                    self.agreeing[contender.name].append(self._agreeing(contender, place, tokens))
                self.advance()
            yield place

    def repeats(self, most: int, seconds: float | None) -> dict[str, int]:
        """Return contender → how often it repeats each prompt, so that all repeats take about `seconds`.

        Each contender gets the same part of the time, the fastest first, and what it does not need is left to the
        others. A contender whose part does not last for all the prompts repeats none.
        """
        lasting = {name: _usual(self._checked[name]) * len(self.prompts) for name in self.agreeing}
        left, counts = seconds, {}
        for waiting, name in zip(range(len(lasting), 0, -1), sorted(lasting, key=lasting.__getitem__), strict=True):
            counts[name] = most if left is None else min(most, int(left / waiting / lasting[name]))
            left = None if left is None else left - counts[name] * lasting[name]
        return counts

    def time(self, repeats: Mapping[str, int]) -> Iterator[int]:
        """Repeat every prompt with each contender as often as given; yields after every round.

        The contenders take turns on each prompt and another one begins every time, so that a machine that slows
        down, or one contender's traces in its caches, meet all of them alike. Those that repeat less take part in
        every second round, say.

        Raises:
            SpeckvError: see `Reference.agreeing`.
        """
        rounds, turn = max(repeats.values(), default=0), 0
        for round_ in range(rounds):
            due = [c for c in self.contenders if (n := repeats[c.name]) * (round_ + 1) // rounds > n * round_ // rounds]
            for place in range(len(self.prompts)):
                first = turn % len(due)
                for contender in [*due[first:], *due[:first]]:
                    tokens = self._run(contender, place, self._repeated[contender.name][place])
                    if self.reference.exact:
                        self._agreeing(contender, place, tokens)
                    self.advance()
                turn += 1
            yield round_

    @property
    def finished(self) -> int:
        """Prompts that every contender has decoded."""
        return min((len(agreed) for agreed in self.agreeing.values()), default=0)

    def runs(self) -> dict[str, list[Runs]]:
        """Return contender → runs of each finished prompt: the repeats where there are any, else the checked one."""
        return {
            name: [
                repeated if repeated.seconds else checked
                for repeated, checked in zip(self._repeated[name], self._checked[name], strict=True)
            ][: self.finished]
            for name in self.agreeing
        }

    def repeated(self, name: str) -> int:
        """Return how often a contender has repeated every finished prompt."""
        return min(len(runs.seconds) for runs in self._repeated[name][: self.finished])

    def compared(self, name: str) -> int:
        """Return of how many tokens `agreeing` says whether they are the target's own."""
        finished = self._checked[name][: self.finished]
        if self.reference.exact:
            return sum(len(self.reference.tokens[run.prompt]) for run in finished)
        return sum(run.tokens[0] for run in finished)

    def _agreeing(self, contender: Contender, place: int, tokens: Sequence[int]) -> int:
        return self.reference.agreeing(contender.name, self.prompts[place], self.encoded[place], tokens)

    def _run(self, contender: Contender, place: int, runs: Runs) -> list[int]:
        """Run once and note it; return the tokens."""
        generation, seconds = self.clock.time(contender, self.encoded[place], self.new_tokens)
        tokens = generation.tokens
        runs.seconds.append(seconds)
        runs.tokens.append(len(tokens))
        runs.steps.append(generation.steps)
        runs.drafted.append(generation.drafted)
        return tokens


def _usual(runs: Sequence[Runs]) -> float:
    """Return a contender's usual seconds a prompt: the first one may have compiled something."""
    return median(run.seconds[0] for run in runs)
