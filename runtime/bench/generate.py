"""transformers' own decoding: plain, and assisted by the draft."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from runtime.bench.contender import Generation
from runtime.errors import SpeckvError
from runtime.pair.target import Target


class Plain:
    """`generate`, token by token, eager: what every contender's tokens are compared with."""

    name = "transformers"

    def __init__(self, target: Target) -> None:
        self.target = target

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        tokens = _generate(self.target, prompt, new_tokens)
        return Generation(tokens, steps=len(tokens), drafted=0)


class Compiled:
    """`generate` with a static cache, which transformers compiles by itself on CUDA.

    Args:
        target: the loaded target.
        longest: tokens of the longest text: with a cache for it from the first run on, nothing is compiled again.

    Raises:
        SpeckvError: on the CPU, where it compiles nothing.
    """

    name = "compiled"

    def __init__(self, target: Target, longest: int) -> None:
        if target.model.get_input_embeddings().weight.device.type != "cuda":
            raise SpeckvError("transformers compiles on CUDA alone")
        self.target = target
        self.cache: dict[str, object] = {"cache_implementation": "static"}
        if hasattr(GenerationConfig(), "max_cache_len"):  # transformers 5.17 has no such setting
            self.cache["max_cache_len"] = longest

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        tokens = _generate(self.target, prompt, new_tokens, **self.cache)
        return Generation(tokens, steps=len(tokens), drafted=0)


class Assisted:
    """Assisted generation: `generate(assistant_model=draft)`.

    How far the assistant drafts is read from the assistant's `generation_config`; the same settings given to the
    target's `generate` are ignored. transformers' defaults draft up to 20 tokens, stopping after one whose top-1
    probability is below 0.4, a threshold that moves with the outcomes where scikit-learn is installed.

    Args:
        draft: the assistant.
        target: the loaded target.
        constant: draft exactly this many tokens a step; None for transformers' defaults.
    """

    def __init__(self, draft: PreTrainedModel, target: Target, constant: int | None = None) -> None:
        self.name = f"assisted:{constant}" if constant else "assisted"
        self.draft, self.target = draft, target
        self.settings = GenerationConfig()
        if constant:
            self.settings = GenerationConfig(
                num_assistant_tokens=constant,
                num_assistant_tokens_schedule="constant",
                assistant_confidence_threshold=0.0,  # it would stop before `constant` tokens
            )

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        target = self.target.model
        with _configured(self.draft, self.settings), _calls(target) as steps, _calls(self.draft) as drafted:
            tokens = _generate(self.target, prompt, new_tokens, assistant_model=self.draft)
        return Generation(tokens, len(steps), len(drafted))


def _generate(target: Target, prompt: Sequence[int], new_tokens: int, **more: object) -> list[int]:
    """Generate greedily, without what the target's own `generation_config` adds (a repetition penalty, say)."""
    eos = sorted(target.eos)
    greedy = GenerationConfig(do_sample=False, eos_token_id=eos or None, pad_token_id=eos[0] if eos else 0)
    model = target.model
    ids = torch.tensor([list(prompt)], device=model.get_input_embeddings().weight.device)
    with _configured(model, greedy):
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, **more)
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@contextmanager
def _configured(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Give the model another `generation_config` for a while."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _calls(model: PreTrainedModel) -> Iterator[list[None]]:
    """Yield a list that grows by one with each forward of the model, at some microseconds each."""
    calls: list[None] = []

    def count(module: torch.nn.Module, _: object) -> None:
        if module is model:  # an early-exit draft has its target's table of hooks
            calls.append(None)

    handle = model.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()
