"""The public names, pinned: a change here is a change to every user's program."""

from __future__ import annotations

import inspect

import runtime
from runtime.stopper.stopper import Stopper


def test_public_names() -> None:
    assert runtime.__all__ == ["BatchDecision", "Decision", "GammaSelector", "Signals", "SpeckvError"]
    assert all(hasattr(runtime, name) for name in runtime.__all__)


def test_signatures() -> None:
    select = inspect.signature(runtime.GammaSelector.select)
    assert list(select.parameters) == ["self", "signals", "compression", "candidates", "step_cost"]
    batch = inspect.signature(runtime.GammaSelector.select_batch)
    assert list(batch.parameters) == list(select.parameters)
    assert list(inspect.signature(runtime.GammaSelector).parameters) == ["package", "providers"]
    pretrained = inspect.signature(runtime.GammaSelector.from_pretrained)
    assert list(pretrained.parameters) == ["path_or_repo_id", "revision", "providers"]
    assert list(inspect.signature(Stopper.from_pretrained).parameters) == ["path_or_repo_id", "revision"]
    assert runtime.Decision._fields == runtime.BatchDecision._fields
    assert runtime.Decision._fields == ("gamma", "expected_tokens", "predicted_acceptance_rate")
    assert runtime.Signals._fields[0] == "mean_draft_entropy"
