"""A language model with its KV cache: the loop's only view of the draft and of the target."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from runtime.errors import SpeckvError

UNKNOWN = -1e30
"""Logit of a token that a model does not know: probability 0, unless every token that it knows is forbidden."""


class Scorer(Protocol):
    """Scores tokens after those it has already seen."""

    length: int
    """Tokens in the cache."""
    device: torch.device
    capacity: int | None
    """Tokens that fit into the model's context; None if it has no limit."""

    def score(self, tokens: Tensor, keep: int) -> Tensor:
        """Append `tokens` (int64 `[n]`, n ≥ 1) and return the logits, float32 `[keep, V]`, after the last `keep`."""
        ...

    def rollback(self, length: int) -> None:
        """Forget every token after the first `length`."""
        ...


def check_rollback(model: PreTrainedModel) -> None:
    """Refuse a model whose state is not a cache of keys and values: rejected tokens could not be taken out of it.

    Raises:
        SpeckvError: naming the kind of model.
    """
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    recurrent = [kind for kind in kinds if "attention" not in kind or "linear" in kind]
    if getattr(model, "_is_stateful", False) or recurrent:
        raise SpeckvError(
            f"{type(model).__name__} is recurrent: what a rejected token did to its state cannot be undone, "
            "so speculative decoding needs a model of attention layers"
        )


class CachedModel:
    """A transformers causal language model as a `Scorer`, batch 1.

    `cache` holds the keys and values of the tokens seen; between steps, those of the text without its last token.

    Args:
        model: in evaluation mode.
        vocabulary: width V of the logits; the model's own by default. Models of one tokenizer may pad their
            vocabularies differently: a draft's logits are cut or filled up (with `UNKNOWN`) to the target's width.

    Raises:
        SpeckvError: if the model's state cannot be rolled back.
    """

    def __init__(self, model: PreTrainedModel, vocabulary: int | None = None) -> None:
        check_rollback(model)
        self.model = model
        self._known = model.config.get_text_config().vocab_size
        self.vocabulary = vocabulary or self._known
        self.device = model.get_input_embeddings().weight.device
        self.capacity = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.length = 0
        # Without the config every layer keeps all its positions, so that sliding-window models can roll back too.
        self.cache = DynamicCache()

    @torch.inference_mode()
    def score(self, tokens: Tensor, keep: int) -> Tensor:
        """Append `tokens` (int64 `[n]`) and return the logits, float32 `[keep, V]`, after the last `keep` of them."""
        positions = torch.arange(self.length, self.length + len(tokens), device=self.device)
        missing = self.vocabulary - self._known
        # A padding id of the target's that a narrower draft does not know may be any token to it.
        output = self.model(
            input_ids=(tokens if missing <= 0 else tokens.clamp_max(self._known - 1))[None],
            position_ids=positions[None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self.length += len(tokens)
        if self.cache.get_seq_length() != self.length:
            raise SpeckvError(
                f"{type(self.model).__name__} keeps {self.cache.get_seq_length()} of {self.length} tokens in its "
                "cache: the loop cannot roll it back, use another model"
            )
        logits: Tensor = output.logits[0, -keep:, : self.vocabulary].float()
        return torch.nn.functional.pad(logits, (0, missing), value=UNKNOWN) if missing > 0 else logits

    def rollback(self, length: int) -> None:
        """Forget every token after the first `length`."""
        if length == 0:  # whatever became of the cache, and its memory with it
            self.cache, self.length = DynamicCache(), 0
        elif length < self.length:
            # Negative means "remove this many" in every supported release of transformers.
            self.cache.crop(length - self.length)
            self.length = length


def cached_pair(draft: PreTrainedModel, target: PreTrainedModel) -> tuple[CachedModel, CachedModel]:
    """Return empty scorers of a draft and its target, with logits as wide as the target's."""
    return CachedModel(draft, target.config.get_text_config().vocab_size), CachedModel(target)
