"""The names that users write, pinned."""

from __future__ import annotations

import inspect

import integrations.transformers


def test_public_names() -> None:
    names = ["PolicyCandidateGenerator", "assisted_by", "generate", "resolve_policy", "speculative_generate"]
    assert integrations.transformers.__all__ == names
    assert all(hasattr(integrations.transformers, name) for name in names)


def test_signatures() -> None:
    decode = inspect.signature(integrations.transformers.speculative_generate)
    assert {"draft", "policy"} < set(decode.parameters)
    whole = inspect.signature(integrations.transformers.generate)
    assert list(whole.parameters) == ["model", "inputs", "draft", "policy", "tokenizer", "arguments"]
    assert list(inspect.signature(integrations.transformers.resolve_policy).parameters) == ["policy", "draft", "model"]
    assert list(inspect.signature(integrations.transformers.assisted_by).parameters) == ["model", "policy"]
