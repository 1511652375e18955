"""Whether a contender's tokens are the target's own: transformers' plain greedy decoding is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from runtime.errors import SpeckvError
from runtime.loop.scorer import CachedModel
from runtime.pair.target import Target
from runtime.prompts import Prompt

ROUNDING = 1e-3
"""Two logits that are closer than this may change places with the number of tokens scored in one call. In fp32 single
logits were seen to move by 0.0002."""


@dataclass(frozen=True)
class NearTie:
    """A place where the target all but ranks two tokens first, and a contender took the other one."""

    contender: str
    prompt: int
    """Its place in the prompts' file, from 0."""
    position: int
    """New token, from 0."""
    gap: float
    """Between the target's logits of the two tokens, scored together with all before them."""


@dataclass
class Reference:
    """The plain tokens of each prompt, and what has been found beside them.

    Args:
        target: the loaded target.
        exact: whether other tokens are an error (fp32); otherwise they are counted only.
    """

    target: Target
    exact: bool
    tokens: dict[int, list[int]] = field(default_factory=dict)
    near_ties: set[NearTie] = field(default_factory=set)

    def agreeing(self, name: str, prompt: Prompt, ids: Sequence[int], tokens: Sequence[int]) -> int:
        """Return how many tokens of contender `name` agree with the plain ones, up to the first that does not.

        Raises:
            SpeckvError: where they have to be the same and differ by more than rounding.
        """
        plain = self.tokens[prompt.index]
        if list(tokens) == plain:
            return len(plain)
        pairs = enumerate(zip(tokens, plain, strict=False))
        position = next((i for i, (one, other) in pairs if one != other), min(len(tokens), len(plain)))
        if self.exact:
            self._excuse(name, prompt, position, ids, tokens)
        return position

    def _excuse(self, name: str, prompt: Prompt, position: int, ids: Sequence[int], tokens: Sequence[int]) -> None:
        """Note a near tie, or raise."""
        plain = self.tokens[prompt.index]
        place = f"{name} differs from plain decoding on prompt {prompt.index} ({prompt.task}) at new token {position}"
        if position >= min(len(tokens), len(plain)):
            raise SpeckvError(f"{place}: it wrote {len(tokens)} tokens, the target alone {len(plain)}")
        scorer = CachedModel(self.target.model)
        logits = scorer.score(torch.tensor([*ids, *plain[:position]], device=scorer.device), keep=1)[0]
        gap = float((logits[tokens[position]] - logits[plain[position]]).abs())
        if not gap < ROUNDING:
            raise SpeckvError(
                f"{place}: {tokens[position]} instead of {plain[position]}, logits {gap:.2g} apart: it is not lossless"
            )
        self.near_ties.add(NearTie(name, prompt.index, position, gap))
