"""Whether a contender's tokens are the target's own: those of transformers' plain greedy decoding in fp32, where both
must be the same, and otherwise those that the target ranks first when it scores the text as a whole."""

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
    """What the target itself would have written, and what has been found beside it.

    Args:
        target: the loaded target.
        exact: whether other tokens than plain decoding's are an error (fp32). Otherwise rounding chooses among several
            right texts, and a token is right after the text before it, whatever plain decoding wrote there; those
            are counted, in one forward pass.
    """

    target: Target
    exact: bool
    tokens: dict[int, list[int]] = field(default_factory=dict)
    """Of each prompt, by plain decoding."""
    near_ties: set[NearTie] = field(default_factory=set)

    def agreeing(self, name: str, prompt: Prompt, ids: Sequence[int], tokens: Sequence[int]) -> int:
        """Return how many tokens of contender `name` are the target's own: in fp32 up to the first that is not.

        Raises:
            SpeckvError: in fp32, where they differ by more than rounding.
        """
        if not self.exact:
            return self._first_choices(ids, tokens)
        plain = self.tokens[prompt.index]
        if list(tokens) == plain:
            return len(plain)
        pairs = enumerate(zip(tokens, plain, strict=False))
        position = next((i for i, (one, other) in pairs if one != other), min(len(tokens), len(plain)))
        self._excuse(name, prompt, position, ids, tokens)
        return position

    def _first_choices(self, ids: Sequence[int], tokens: Sequence[int]) -> int:
        """Return how many tokens the target ranks first after the text before them."""
        scorer = CachedModel(self.target.model)
        with torch.inference_mode():
            logits = scorer.score(torch.tensor([*ids, *tokens[:-1]], device=scorer.device), keep=len(tokens))
        return int((logits.argmax(-1).cpu() == torch.tensor(tokens)).sum())

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
