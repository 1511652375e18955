"""Scorers without a model, and policies that a user might write."""

from __future__ import annotations

import itertools
import math
import random

import torch
from torch import Tensor

from runtime.policies.policy import Drafted, Memoryless, Outcome, Policy


class TableScorer:
    """A language model over `vocabulary` tokens whose logits depend on the last two tokens only."""

    def __init__(self, vocabulary: int, seed: int, scale: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(vocabulary, vocabulary, vocabulary, generator=generator)
        self.device = torch.device("cpu")
        self.capacity: int | None = None
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        return len(self.tokens)

    def score(self, tokens: Tensor, keep: int) -> Tensor:
        self.tokens += tokens.tolist()
        known = [0, *self.tokens]
        return torch.stack([self.table[known[i - 1], known[i]] for i in range(len(known) - keep, len(known))])

    def rollback(self, length: int) -> None:
        del self.tokens[length:]

    def sequence_probabilities(self, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
        """Exact probability of every continuation of `length` tokens."""
        p = torch.softmax(self.table.double(), -1)
        result = {}
        for tokens in itertools.product(range(self.table.shape[0]), repeat=length):
            known, probability = [0, *prompt], 1.0
            for token in tokens:
                probability *= float(p[known[-2], known[-1], token])
                known.append(token)
            result[tokens] = probability
        return result


class StopWhenUnsure(Memoryless):
    """Stops by a signal: goes on while the draft's top-1 probability stays above a threshold."""

    name = "stop-when-unsure"

    def __init__(self, threshold: float = 0.4, cap: int = 6) -> None:
        self.threshold, self.cap = threshold, cap

    def gamma(self, drafted: Drafted) -> int:
        if drafted.count and drafted.tokens[-1].top1 < self.threshold:
            return drafted.count
        return min(drafted.count + 1, self.cap)


class Erratic(Memoryless):
    """Asks for random lengths, jumps ahead, and sometimes for less than it already has."""

    name = "erratic"

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)

    def gamma(self, drafted: Drafted) -> int:
        return drafted.count + self.random.choice([-1, 0, 1, 3])


class Untimed:
    """A policy that is not told what its steps took: it decides alike on every machine."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.name = policy, policy.name

    def begin(self) -> None:
        self.policy.begin()

    def gamma(self, drafted: Drafted) -> int:
        return self.policy.gamma(drafted)

    def observe(self, outcome: Outcome) -> None:
        self.policy.observe(outcome._replace(draft_ms=math.nan, verify_ms=math.nan))
