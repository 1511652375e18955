"""`generate` on the fast loop, in the kernels' interpreter: the model's own tokens, on graphs that are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from integrations.transformers import decoding, kept
from runtime.cuda.pair import GraphPair
from runtime.cuda.weights import NotCoveredError, read_weights
from runtime.loop import backend as backend_module
from runtime.loop.sampling import Sampling
from runtime.policies.price import LONGEST
from tests.cuda.small import shorten_calls
from tests.integrations.transformers.pairs import noisy, ours, own
from tests.loop.tiny import tiny_model

PROMPT = [3, 1, 4]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the CPU have graphs; return the lengths that they were built for."""
    lengths: list[int] = []

    def build(
        draft: PreTrainedModel, target: PreTrainedModel, tokens: int, _sampling: Sampling, rows: int
    ) -> GraphPair:
        lengths.append(tokens)
        return GraphPair(draft, target, rows, tokens, LONGEST)

    shorten_calls(monkeypatch)
    monkeypatch.setattr(kept, "LEAST", 16)
    monkeypatch.setattr(backend_module, "_obstacle", lambda *_: None)
    monkeypatch.setattr(backend_module, "_graph_pair", build)
    return lengths


@pytest.fixture
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    target = tiny_model(seed=1, layers=1)  # the interpreter takes its time
    return noisy(target), target


def test_graphs_are_kept_while_they_fit(pair: tuple[PreTrainedModel, PreTrainedModel], built: list[int]) -> None:
    draft, model = pair
    expected = own(model, PROMPT, max_new_tokens=8)
    for policy in ("fixed:3", "none"):
        assert torch.equal(ours(model, PROMPT, draft, policy=policy, max_new_tokens=8), expected)
    assert built == [16]
    longer = own(model, PROMPT, max_new_tokens=14)
    assert torch.equal(ours(model, PROMPT, draft, policy="fixed:3", max_new_tokens=14), longer)
    assert built == [16, 32]
    assert getattr(copy.deepcopy(model), kept.ATTRIBUTE) is None


def test_weights_that_are_replaced_are_read_anew(
    pair: tuple[PreTrainedModel, PreTrainedModel], built: list[int]
) -> None:
    draft, model = pair
    ours(model, PROMPT, draft, policy="fixed:3", max_new_tokens=8)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5
    expected = own(model, PROMPT, max_new_tokens=8)
    assert torch.equal(ours(model, PROMPT, draft, policy="fixed:3", max_new_tokens=8), expected)
    assert len(built) == 2


class Until(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:  # noqa: ARG002
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_what_ends_a_text(pair: tuple[PreTrainedModel, PreTrainedModel], built: list[int]) -> None:
    draft, model = pair
    whole = own(model, PROMPT, max_new_tokens=8)
    endings: list[dict[str, object]] = [
        {"max_new_tokens": 8, "stopping_criteria": StoppingCriteriaList([Until(8)])},
        {"max_new_tokens": 8, "eos_token_id": [int(whole[0, 6]), 0]},
        {"max_length": 5},
    ]
    for arguments in endings:
        expected = own(model, PROMPT, **arguments)
        found = ours(model, PROMPT, draft, policy="fixed:3", **arguments)
        assert torch.equal(found, expected)
        assert found.shape[1] < whole.shape[1]
    assert built == [16]


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": True},
        {"repetition_penalty": 1.2},
        {"return_dict_in_generate": True, "output_scores": True},
    ],
)
def test_what_needs_more_than_tokens_runs_plainly(
    model: PreTrainedModel, draft: PreTrainedModel, arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(decoding, "greedy_backend", fail)
    ours(model, PROMPT, draft, policy="fixed:3", max_new_tokens=6, **arguments)


@pytest.mark.parametrize("put", ["hook", "forward"])
def test_a_model_with_something_around_a_layer_is_not_covered(model: PreTrainedModel, put: str) -> None:
    changed = copy.deepcopy(model)
    layer = changed.get_decoder().layers[0]
    if put == "hook":
        layer.register_forward_hook(lambda *_: None)
    else:
        plain: Callable[..., object] = layer.forward
        layer.forward = lambda *given, **named: plain(*given, **named)
    with pytest.raises(NotCoveredError, match="hooks"):
        read_weights(changed)
