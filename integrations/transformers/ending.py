"""transformers' stopping criteria as the loop's stop rule, and the record of scores that they and the output show."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from integrations.transformers.choice import ProcessorChoice


class Ending:
    """Asks the criteria after every committed token; a stop rule of the loop (`Ends`).

    Args:
        criteria: as `generate` builds them.
        choice: what the tokens of a step were accepted by: its last call is that of the verified tokens.
        config: says which records to keep, as in `generate`.
    """

    scores: tuple[Tensor, ...] | None
    """float32 `[1, V]` of every committed token, processed; None unless asked for."""
    logits: tuple[Tensor, ...] | None
    """float32 `[1, V]` of every committed token, unprocessed; None unless asked for."""

    def __init__(self, criteria: StoppingCriteriaList, choice: ProcessorChoice, config: GenerationConfig) -> None:
        self.criteria = criteria
        self.choice = choice
        self.max_length: int = config.max_length if criteria.max_length is None else criteria.max_length
        self.scores = () if config.return_dict_in_generate and config.output_scores else None
        self.logits = () if config.return_dict_in_generate and config.output_logits else None

    def room(self, prompt: int) -> int:
        """Return how many tokens may follow a prompt: one at least, since `generate` looks at its criteria after it."""
        return max(1, self.max_length - prompt)

    def of(self, criteria: StoppingCriteriaList) -> Ending:
        """Return the same with fewer criteria, for a text of which nothing is recorded."""
        fewer = copy.copy(self)
        fewer.criteria = criteria
        return fewer

    def __call__(self, context: Tensor, new: Sequence[int]) -> bool:
        """Return whether the text ends with the last of `new`, the step's tokens so far, after `context`."""
        if self.scores is not None or self.logits is not None or not self.choice.greedy:
            self._record(len(context), len(new) - 1)
        device = self.choice.device
        ids = torch.cat([context.to(device), torch.tensor(new, device=device)])[None]
        return bool(self.criteria(ids, self.scores).all())

    def _record(self, before: int, row: int) -> None:
        """Keep what was asked for of the step's token number `row`, `before` tokens into the text.

        Raises:
            ValueError: if no token was possible there.
        """
        processed = self.choice.processed[row : row + 1]
        if not self.choice.greedy and bool(processed.amax().isneginf()):
            raise ValueError(
                f"the logits processors leave no token possible after {before + row} tokens: relax one of them"
            )
        # Copies: the rows are views of a whole step's, and made in inference mode.
        if self.scores is not None:
            self.scores += (processed.clone(),)
        if self.logits is not None:
            self.logits += (self.choice.logits[row : row + 1].clone(),)
