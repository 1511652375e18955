"""Contenders that need no model of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.bench.contender import Contender, Generation


class Scripted:
    """Says what it is told to, and writes its name down at every run."""

    def __init__(self, name: str, tokens: Sequence[int], log: list[str]) -> None:
        self.name, self.tokens, self.log = name, list(tokens), log

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:  # noqa: ARG002
        self.log.append(self.name)
        return Generation(self.tokens[:new_tokens], len(self.tokens), 0)


class Changed:
    """Another contender's tokens with a change."""

    def __init__(self, contender: Contender, change: Callable[[list[int]], list[int]]) -> None:
        self.name, self.contender, self.change = "changed", contender, change

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        generation = self.contender.run(prompt, new_tokens)
        return generation._replace(tokens=self.change(generation.tokens))
