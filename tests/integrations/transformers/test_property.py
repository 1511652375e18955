"""Any combination of honoured arguments: greedy, the sequences are those of `generate` alone."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.integrations.transformers.pairs import ours, own
from tests.loop.fakes import Erratic
from tests.loop.tiny import VOCABULARY

token = st.integers(0, VOCABULARY - 1)
ordinary = st.integers(1, VOCABULARY - 1)
"""5.17 has no biases for token 0."""
ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.sampled_from([0.7, 1.2, 1.9]),
    "encoder_repetition_penalty": st.sampled_from([0.5, 1.5]),
    "no_repeat_ngram_size": st.integers(1, 4),
    "encoder_no_repeat_ngram_size": st.integers(1, 3),
    "min_new_tokens": st.integers(1, 12),
    "eos_token_id": st.lists(token, min_size=1, max_size=6),
    "suppress_tokens": st.lists(token, min_size=1, max_size=20),
    "begin_suppress_tokens": st.lists(token, min_size=1, max_size=20),
    "bad_words_ids": st.lists(st.lists(ordinary, min_size=1, max_size=2), min_size=1, max_size=9),
    "forced_eos_token_id": token,
    "sequence_bias": st.lists(
        st.tuples(st.lists(ordinary, min_size=1, max_size=2), st.sampled_from([-3.0, 5.0])).map(list),
        min_size=1, max_size=5, unique_by=lambda pair: tuple(pair[0]),
    ),
    "renormalize_logits": st.just(True),
    "remove_invalid_values": st.just(True),
    "output_scores": st.just(True),
}  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.lists(token, min_size=1, max_size=12),
    new=st.integers(1, 24),
    arguments=st.fixed_dictionaries({}, optional=ARGUMENTS),
    policy=st.sampled_from(["none", "fixed:1", "fixed:5", "speckv", "heuristic", "confidence:0.6", "erratic"]),
    good=st.booleans(),
)
def test_greedy_equality(
    model: PreTrainedModel,
    draft: PreTrainedModel,
    bad_draft: PreTrainedModel,
    prompt: list[int],
    new: int,
    arguments: dict[str, Any],
    policy: str,
    good: bool,
) -> None:
    # `generate` itself refuses to force what it suppresses.
    assume(arguments.get("forced_eos_token_id") not in arguments.get("suppress_tokens", []))
    shared = {"max_new_tokens": new, "return_dict_in_generate": True, **arguments}
    expected = own(model, prompt, **shared)
    chosen = Erratic(new) if policy == "erratic" else policy
    output = ours(model, prompt, draft if good else bad_draft, policy=chosen, **shared)
    assert torch.equal(output.sequences, expected.sequences)
    assert len(output.scores or ()) == len(expected.scores or ())
