"""For those who stay on assisted generation: its candidates drafted as far as a policy says.

transformers has no argument for a candidate generator, in 5.17 as in 5.23: `GenerationMixin._get_candidate_generator`
makes one from the arguments. `assisted_by` puts ours in its place for one model, for the length of a `with`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import CandidateGenerator

from integrations.transformers.arguments import check_drafting, check_models, check_processors, refuse
from integrations.transformers.choice import ProcessorChoice
from integrations.transformers.decoding import draw_seed, speckv_errors_as_value_errors
from integrations.transformers.policies import resolve_policy
from runtime.loop.accept import left_behind
from runtime.loop.propose import propose
from runtime.loop.scorer import CachedModel
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Outcome, Policy


class PolicyCandidateGenerator(CandidateGenerator):  # type: ignore[misc]
    """Drafts with a model, as far as a policy says.

    Args:
        draft: a causal language model of the target's tokenizer.
        policy: chooses how far to draft.
        vocabulary: width V of the target's logits.
        logits_processor: the target's; the draft's distributions are processed alike.
        generation_config: prepared by `generate`.
        device: of the input ids.
    """

    def __init__(
        self,
        draft: PreTrainedModel,
        policy: Policy,
        vocabulary: int,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        device: torch.device,
    ) -> None:
        self.policy = Guarded(policy)
        self.max_length: int = generation_config.max_length
        self.eos: Tensor | None = getattr(generation_config, "_eos_token_tensor", None)
        self._draft = CachedModel(draft, vocabulary)
        self._choice = ProcessorChoice(logits_processor, not generation_config.do_sample, device)
        self._generator = torch.Generator().manual_seed(draw_seed(self._choice.greedy))
        self.policy.begin()

    def get_candidates(self, input_ids: LongTensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the ids with up to gamma drafted ones after them, int64 `[1, n + gamma]`, and the draft's scores.

        The scores, float32 `[1, gamma, V]`, are those whose softmax the tokens were drawn from; None when greedy, and
        when nothing was drafted.
        """
        self._begun = time.perf_counter()
        context = input_ids[0]
        # The target adds a token of its own.
        room = self.max_length - len(context) - 1
        self._proposal = propose(self._draft, context, self.policy, room, self._choice, self._generator)
        tokens = self._proposal.tokens.to(input_ids.device)
        self._gamma = self._until_end(tokens)
        del self._proposal.drafted.tokens[self._gamma :]
        self._drafted = time.perf_counter()
        candidates = torch.cat([context, tokens[: self._gamma]])[None]
        q = self._proposal.q
        return candidates, None if q is None else q[: self._gamma].log()[None]

    def update_candidate_strategy(self, input_ids: LongTensor, scores: Tensor, num_matches: int) -> None:  # noqa: ARG002
        """Tell the policy how many of the candidates stand; `scores` are the target's, float32 `[1, gamma + 1, V]`."""
        accepted = int(num_matches)  # waits for the device
        verified = time.perf_counter()
        draft_ms, verify_ms = (self._drafted - self._begun) * 1e3, (verified - self._drafted) * 1e3
        outcome = Outcome(self._gamma, accepted, draft_ms=draft_ms, verify_ms=verify_ms)
        if not self._choice.processors:  # processed scores are not the distribution that a policy is told of
            place = torch.tensor(accepted, device=scores.device)
            signals = left_behind(scores[0], self._proposal.logits[: self._gamma], place).tolist()
            outcome = outcome._replace(target_entropy=signals[0], target_top1=signals[1], distance=signals[2])
        self.policy.observe(outcome)

    def _until_end(self, tokens: Tensor) -> int:
        """Return how many tokens there are up to the first that ends the text: 5.17 would not stop in their midst."""
        if self.eos is None:
            return len(tokens)
        ends = torch.isin(tokens, self.eos.to(tokens.device)).nonzero()
        return int(ends[0]) + 1 if len(ends) else len(tokens)


@contextmanager
def assisted_by(model: PreTrainedModel, policy: str | Policy | None = None) -> Iterator[None]:
    """Let a policy say how far `model.generate(…, assistant_model=draft)` drafts, inside the `with`.

    Args:
        model: the target; other models are left alone.
        policy: as in `speculative_generate`.

    Raises:
        ValueError: inside, from `generate`, for a draft or a processor that cannot be used, and for every argument that
            says how to draft.
    """
    outer = vars(model).get("_get_candidate_generator")
    model._get_candidate_generator = functools.partial(_candidate_generator, model, policy)
    try:
        yield
    finally:
        del model._get_candidate_generator
        if outer is not None:  # a `with` around this one
            model._get_candidate_generator = outer


def _candidate_generator(
    model: PreTrainedModel,
    policy: str | Policy | None,
    *,
    generation_config: GenerationConfig,
    input_ids: LongTensor,
    logits_processor: LogitsProcessorList,
    assistant_model: PreTrainedModel | None = None,
    **others: Any,
) -> PolicyCandidateGenerator:
    """Make the generator from what `generate` gives: these arguments, by these names, in 5.17 and in 5.23."""
    if others.get("assistant_tokenizer") is not None:
        refuse("assistant_tokenizer", None, "draft and target must share a tokenizer; leave it out")
    draft = check_models(model, assistant_model)
    check_drafting(generation_config)
    check_processors(logits_processor)
    with speckv_errors_as_value_errors():
        chosen = resolve_policy(policy, draft, model)
        vocabulary = model.config.get_text_config().vocab_size
        return PolicyCandidateGenerator(
            draft, chosen, vocabulary, logits_processor, generation_config, input_ids.device
        )
