"""The decoding method that `model.generate(custom_generate=speculative_generate, draft=…)` runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import BaseStreamer, GenerateDecoderOnlyOutput, GenerationMixin

from integrations.transformers.arguments import check_config, check_inputs, check_models, check_processors, refuse
from integrations.transformers.choice import ProcessorChoice
from integrations.transformers.ending import Ending
from integrations.transformers.kept import greedy_backend, greedy_steps
from integrations.transformers.policies import policy_on
from runtime.errors import SpeckvError, TargetError
from runtime.loop.generate import Step, speculate
from runtime.loop.scorer import CachedModel, cached_pair
from runtime.policies.policy import Policy

NOT_HANDED_ON = ("streamer", "assistant_model", "synced_gpus", "negative_prompt_ids", "negative_prompt_attention_mask")
REMEDIES = {
    "assistant_model": "pass the model that drafts as `draft`",
    "synced_gpus": "every process runs its own loop; leave it out",
    "negative_prompt_ids": "leave it out; guidance is not supported",
    "negative_prompt_attention_mask": "leave it out; guidance is not supported",
}
STOP_STRINGS_REMEDY = (
    "`generate` does not hand on its tokenizer: pass `stopping_criteria=[StopStringCriteria(tokenizer, stop_strings)]` "
    "instead, or call `integrations.transformers.generate(model, …)`"
)


def speculative_generate(
    model: PreTrainedModel,
    input_ids: LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    draft: PreTrainedModel | None = None,
    policy: str | Policy | None = None,
    stop_strings: str | list[str] | None = None,
    **arguments: Any,
) -> LongTensor | GenerateDecoderOnlyOutput:
    """Decode speculatively: a draft proposes, the model verifies, a policy chooses how far to draft.

    Called by `model.generate(**inputs, custom_generate=speculative_generate, draft=draft, policy="fixed:4")`. Greedy,
    the tokens are the model's own; sampling, they have its distribution (Leviathan 2023). Logits processors must be
    functions of the ids and the scores alone, since they also see proposals that are then rejected.

    Args:
        model: the target.
        input_ids: int64 `[1, n]`, without padding.
        logits_processor: applied position by position, each with the ids before it, for draft and target alike.
        stopping_criteria: asked after every committed token.
        generation_config: prepared by `generate`.
        draft: a causal language model of the same tokenizer; its vocabulary may be padded differently.
        policy: a name that `make_policy` of `runtime.policies.registry` knows, "adaptive" by default, or a policy. A
            name makes a new policy for every call; an object (`resolve_policy` makes one) keeps what it has learned.
        stop_strings: refused here, because `generate` does not hand on the tokenizer.
        arguments: `streamer` and `synced_gpus`, should `generate` hand them on, and the model's inputs.

    Returns:
        int64 `[1, n + new]` on the device of `input_ids`, or with `return_dict_in_generate` what `generate` returns.

    Raises:
        ValueError: for every argument that cannot be honoured, naming it.
        RuntimeError: if the model itself fails in the midst of the text; a streamer has what came before.
    """
    if stop_strings is not None:
        refuse("stop_strings", stop_strings, STOP_STRINGS_REMEDY)
    given = (model, input_ids, logits_processor, stopping_criteria, generation_config, draft, policy)
    return decode(*given, **arguments)


def decode(
    model: PreTrainedModel,
    input_ids: LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    draft: PreTrainedModel | None = None,
    policy: str | Policy | None = None,
    streamer: BaseStreamer | None = None,
    synced_gpus: bool | None = None,
    **model_kwargs: Any,
) -> LongTensor | GenerateDecoderOnlyOutput:
    """Check everything, then decode; see `speculative_generate`."""
    kept = _not_handed_on(sys._getframe())
    kept["synced_gpus"] = synced_gpus or kept.get("synced_gpus") or None
    for name, remedy in REMEDIES.items():
        if kept.get(name) is not None:
            refuse(name, None, remedy)
    streamer = kept.get("streamer") if streamer is None else streamer
    draft = check_models(model, draft)
    check_config(generation_config)
    check_inputs(input_ids, model_kwargs)
    check_processors(logits_processor)
    with speckv_errors_as_value_errors():
        pair = cached_pair(draft, model)
        choice = ProcessorChoice(logits_processor, not generation_config.do_sample, input_ids.device)
        ending = Ending(stopping_criteria, choice, generation_config)
        backend = (
            greedy_backend(draft, model, ending, input_ids) if _plainly_greedy(choice, generation_config) else None
        )
        chosen = policy_on(backend.graphs if backend else None, policy, draft, model)
        if backend and backend.graphs:
            steps = greedy_steps(backend, chosen, input_ids, ending)
        else:
            steps = _steps(pair, input_ids, chosen, choice, ending)
        tokens = _stream(steps, streamer)
    sequences = torch.cat([input_ids, torch.tensor([tokens], device=input_ids.device)], dim=-1)
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateDecoderOnlyOutput(
        sequences=sequences, scores=ending.scores, logits=ending.logits, past_key_values=pair[1].cache
    )


def _plainly_greedy(choice: ProcessorChoice, config: GenerationConfig) -> bool:
    """Whether the tokens are the likeliest ones, and nothing but they is returned."""
    return choice.greedy and not choice.processors and not config.return_dict_in_generate


@contextmanager
def speckv_errors_as_value_errors() -> Iterator[None]:
    """Raise what the loop refuses as transformers would, and what fails in the model as torch would."""
    try:
        yield
    except TargetError as error:
        raise RuntimeError(str(error)) from error
    except SpeckvError as error:
        raise ValueError(str(error)) from error


def draw_seed(greedy: bool) -> int:
    """Return the seed of a text's draws: from torch's own generator, which `torch.manual_seed` makes reproducible."""
    return 0 if greedy else int(torch.randint(2**62, ()))


def _steps(
    pair: tuple[CachedModel, CachedModel], input_ids: Tensor, policy: Policy, choice: ProcessorChoice, ending: Ending
) -> Iterator[Step]:
    prompt: Sequence[int] = input_ids[0].tolist()
    room, seed = ending.room(len(prompt)), draw_seed(choice.greedy)
    return speculate(*pair, prompt, policy, max_new_tokens=room, sampling=choice, stop=ending, seed=seed)


def _stream(steps: Iterator[Step], streamer: BaseStreamer | None) -> list[int]:
    """Return the tokens of the steps, streamed one by one as `generate` does: int64 `[1]` each; it sent the prompt."""
    tokens: list[int] = []
    try:
        for step in steps:
            tokens += step.tokens
            if streamer is not None:
                for token in step.tokens:
                    streamer.put(torch.tensor([token]))
    finally:  # after an error, too: what was generated is shown, and who waits for more is told that none comes
        if streamer is not None:
            streamer.end()
    return tokens


def _not_handed_on(frame: FrameType | None) -> dict[str, Any]:
    """Return the arguments that `generate` takes and keeps to itself when the decoding method is a callable.

    transformers 5.17 to 5.23 collect a callable's arguments anew and so lose them: nothing else tells a streamer that
    waits for tokens, or a flag that must be refused, from one that was never given. They are read where they are:
    in the frame of the `generate` that called us.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return {} if frame is None else {name: frame.f_locals.get(name) for name in NOT_HANDED_ON}
