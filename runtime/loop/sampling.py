"""From logits to the distribution that tokens are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runtime.errors import SpeckvError

SMALLEST = 2.0**-149
"""Of float32's numbers above 0: a smaller temperature would be 0 there."""


class TokenChoice(Protocol):
    """How a token is chosen from logits: the likeliest one, or one drawn from the softmax of what `scores` returns."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        ...

    def scores(self, logits: Tensor, context: Tensor, drafted: Sequence[Tensor]) -> Tensor:
        """Return float32 `[n, V]` from logits `[n, V]`, on their device.

        The last row is for the token after all of the text: `context` (int64 `[m]`), then `drafted` (int64 `[]`
        each); every row above it is for one token earlier.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits; temperature 0 is greedy.

    Args:
        temperature: ≥ 0.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p, in (0, 1].

    Raises:
        SpeckvError: for a value out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SpeckvError(f"temperature is {self.temperature}: it must be a number >= 0 (0 is greedy)")
        if 0 < self.temperature < SMALLEST:
            raise SpeckvError(
                f"temperature is {self.temperature}, and logits cannot be divided by less than {SMALLEST:.2g}: "
                "give 0, which is greedy, or more"
            )
        if self.top_k < 0:
            raise SpeckvError(f"top_k is {self.top_k}: it must be >= 0 (0 keeps all tokens)")
        if not 0 < self.top_p <= 1:
            raise SpeckvError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.greedy and (self.top_k or self.top_p < 1):
            raise SpeckvError(
                "temperature 0 is greedy, where top_k and top_p change nothing: give a temperature above 0"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def scores(self, logits: Tensor, context: Tensor, drafted: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Return float32 `[n, V]` from logits `[n, V]`, with transformers' own warpers in its order; see `TokenChoice`.

        The text has no say in it.
        """
        return logits if self.greedy else self._warped(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return float32 `[n, V]` probabilities from logits `[n, V]`."""
        return torch.softmax(self._warped(logits), dim=-1)

    def _warped(self, logits: Tensor) -> Tensor:
        warpers = LogitsProcessorList()
        if self.temperature != 1:
            # A GPU multiplies by the reciprocal, which below this one is infinite.
            warpers.append(TemperatureLogitsWarper(max(float(self.temperature), torch.finfo(torch.float32).tiny)))
        if self.top_k:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        # The likeliest token at 0: a tiny temperature then divides to −inf at worst, never to +inf.
        warped: Tensor = warpers(None, logits - logits.amax(-1, keepdim=True))
        return warped


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw tokens, int64 `[…]`, from float `[…, V]` weights (need not sum to 1) with uniforms, float64 `[…]` in [0, 1).

    By inverse transform. The running sum is float64: over 50,000 tokens, float32 loses the tail.
    """
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[..., -1:].contiguous()
    # right=True skips tokens of probability 0 when the uniform falls on their (empty) interval.
    token = torch.searchsorted(cumulative, uniform.double()[..., None] * total, right=True)
    last_possible = torch.searchsorted(cumulative, total)
    # Weights that are no numbers give a token all the same; whoever looks at them refuses it.
    return torch.minimum(token, last_possible)[..., 0].clamp_max(probabilities.shape[-1] - 1)
