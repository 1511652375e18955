"""Greedy, `generate` with a draft writes what it writes without, whatever the family, the draft and the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from integrations.transformers import assisted_by, resolve_policy
from runtime import SpeckvError
from runtime.pair.early_exit import early_exit
from runtime.policies.fixed import Fixed
from runtime.profile import start_up
from tests.integrations.transformers.pairs import FAMILIES, noisy, ours, own, tiny
from tests.loop.fakes import Erratic
from tests.loop.tiny import VOCABULARY, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_good_and_bad_drafts(family: str) -> None:
    model = tiny(family)
    for draft in (noisy(model), tiny(family, seed=2), tiny_model(seed=3, layers=1), model):
        for length in (1, 2, 3, 16):
            prompt = [(7 * i + length) % VOCABULARY for i in range(length)]
            assert torch.equal(ours(model, prompt, draft, max_new_tokens=30), own(model, prompt, max_new_tokens=30))


@pytest.mark.parametrize(
    "policy", [None, "adaptive", "none", "fixed:1", "fixed:12", "speckv", "adaedl", "heuristic", Erratic()]
)
def test_every_policy(model: PreTrainedModel, draft: PreTrainedModel, policy: object) -> None:
    expected = own(model, [3, 1, 4], max_new_tokens=40)
    assert torch.equal(ours(model, [3, 1, 4], draft, policy=policy, max_new_tokens=40), expected)


def test_a_policy_that_weighs_time_gets_measured_times_once(
    model: PreTrainedModel, draft: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    expected = own(model, [3, 1, 4], max_new_tokens=12)
    assert torch.equal(ours(model, [3, 1, 4], draft, policy="throughput", max_new_tokens=12), expected)
    assert len(list((tmp_path / "step-times").glob("*.json"))) == 1
    monkeypatch.setattr(start_up, "measure", None)  # a second measurement would fail
    assert resolve_policy("throughput", draft, model).name == "throughput"
    assert torch.equal(ours(model, [3, 1, 4], draft, policy="throughput", max_new_tokens=12), expected)


def test_times_of_another_shape_are_other_times(
    model: PreTrainedModel, draft: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    for other in (draft, tiny_model(seed=1, hidden=64)):
        resolve_policy("throughput", other, model)
    assert len(list((tmp_path / "step-times").glob("*.json"))) == 2


def test_the_default_policy(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    assert resolve_policy(None, draft, model).name == "adaptive"


def test_processes_that_measure_different_times_do_not_weigh_them(draft: PreTrainedModel) -> None:
    model = tiny("llama")
    model._tp_size = 2
    assert resolve_policy(None, draft, model).name == "speckv"
    with pytest.raises(SpeckvError, match=r"'adaptive' weighs measured times.*speckv"):
        resolve_policy("adaptive", draft, model)


def test_a_policy_object_is_used_as_it_is(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    policy = Fixed(3)
    assert resolve_policy(policy, draft, model) is policy


@pytest.mark.parametrize("family", ["llama", "qwen2", "sliding"])
def test_the_targets_own_first_layers_as_the_draft(family: str) -> None:
    model = tiny(family)
    expected = own(model, [3, 1, 4], max_new_tokens=30)
    assert torch.equal(ours(model, [3, 1, 4], early_exit(model, 1), max_new_tokens=30), expected)
    with assisted_by(model, "fixed:4"):
        assert torch.equal(own(model, [3, 1, 4], assistant_model=early_exit(model, 1), max_new_tokens=30), expected)
    assert torch.equal(own(model, [3, 1, 4], max_new_tokens=30), expected)  # the target is whole


@pytest.mark.parametrize("width", [VOCABULARY - 20, VOCABULARY + 20])
def test_a_draft_with_another_vocabulary_size(model: PreTrainedModel, width: int) -> None:
    draft = tiny_model(seed=1, vocabulary=width)
    prompt = [VOCABULARY - 1, 2, 3]
    assert torch.equal(ours(model, prompt, draft, max_new_tokens=30), own(model, prompt, max_new_tokens=30))


def test_a_narrow_draft_may_propose_what_it_does_not_know_where_nothing_else_is_allowed(model: PreTrainedModel) -> None:
    draft = tiny_model(seed=1, vocabulary=VOCABULARY - 20)

    def only_the_last(_: int, ids: torch.Tensor) -> list[int]:
        assert (ids[3:] >= VOCABULARY - 2).all()  # never asked after a forbidden token
        return [VOCABULARY - 2, VOCABULARY - 1]

    arguments = {"max_new_tokens": 15, "prefix_allowed_tokens_fn": only_the_last}
    assert torch.equal(ours(model, [1, 2, 3], draft, **arguments), own(model, [1, 2, 3], **arguments))


def test_a_draft_of_another_dtype(model: PreTrainedModel) -> None:
    draft = tiny("llama").to(torch.bfloat16)
    assert torch.equal(ours(model, [5, 6], draft, max_new_tokens=30), own(model, [5, 6], max_new_tokens=30))


def test_a_good_draft_saves_forwards(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    """The draft is really used: far fewer forwards of the target than tokens."""
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        ours(model, [3, 1, 4], draft, max_new_tokens=60)
    finally:
        handle.remove()
    assert len(calls) < 40


def test_the_caches_of_a_call_are_its_own(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    first = ours(model, [9, 8, 7], draft, max_new_tokens=10)
    assert torch.equal(ours(model, [9, 8, 7], draft, max_new_tokens=10), first)
