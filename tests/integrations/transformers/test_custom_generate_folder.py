"""The folder as a Hub repository has it, run from disk."""

from __future__ import annotations

import sys
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import integrations.transformers
from tests.integrations.transformers.pairs import inputs, own

FOLDER = Path(integrations.transformers.__file__).parent
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(autouse=True)
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])


def run(model: PreTrainedModel, **arguments: Any) -> Any:
    return model.generate(**inputs(PROMPT), custom_generate=str(FOLDER), trust_remote_code=True, **arguments)


def test_the_folder_generates(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    expected = own(model, PROMPT, max_new_tokens=20, repetition_penalty=1.3)
    arguments = {"max_new_tokens": 20, "repetition_penalty": 1.3, "draft": draft}
    assert torch.equal(run(model, **arguments), expected)
    assert torch.equal(run(model, **arguments, policy="fixed:3"), expected)


def test_stop_strings_and_streams_reach_it(
    model: PreTrainedModel, draft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    streamed: list[int] = []

    class Streamer:
        def put(self, value: torch.Tensor) -> None:
            streamed.extend(value.flatten().tolist())

        def end(self) -> None:
            streamed.append(-1)

    free = own(model, PROMPT, max_new_tokens=20)[0].tolist()
    stop = {"stop_strings": f"w{free[len(PROMPT) + 5]}", "tokenizer": tokenizer, "max_new_tokens": 20}
    expected = own(model, PROMPT, **stop)
    assert expected.shape[1] < len(free)
    assert torch.equal(run(model, **stop, draft=draft, streamer=Streamer()), expected)
    assert streamed == [*expected[0].tolist(), -1]


def test_refusals_reach_the_user(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="`draft` is missing"):
        run(model, max_new_tokens=3)
    with pytest.raises(ValueError, match="`num_beams`"):
        run(model, max_new_tokens=3, draft=draft, num_beams=2)
    with pytest.raises(ValueError, match="`assistant_model`"):
        run(model, max_new_tokens=3, draft=draft, assistant_model=draft)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        model.generate(**inputs(PROMPT), custom_generate=str(FOLDER), draft=draft, trust_remote_code=False)


def test_a_model_whose_own_generate_it_is(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    """A model loaded from a repository with such a folder has it for its `generate`."""
    model.generate = lambda *given, **named: model.load_custom_generate(str(FOLDER), trust_remote_code=True)(
        model, *given, **named
    )
    try:
        sequences = model.generate(**inputs(PROMPT), draft=draft, max_new_tokens=9)
    finally:
        del model.generate
    assert torch.equal(sequences, own(model, PROMPT, max_new_tokens=9))


def test_the_requirements_are_the_projects_own() -> None:
    """transformers compares each with the installed distribution; it knows no extras."""
    lines = (FOLDER / "custom_generate" / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = {Requirement(line).name: Requirement(line) for line in lines}
    assert all(requirement.specifier.contains(version(name)) for name, requirement in wanted.items())
    project = {Requirement(line).name: Requirement(line) for line in requires("speckv") or ()}
    for name in set(wanted) - {"speckv"}:
        assert wanted[name].specifier == project[name].specifier


def test_the_card_has_the_hubs_tags() -> None:
    _, front, text = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["library_name"] == "transformers"
    assert "custom_generate" in card["tags"]
    assert "trust_remote_code=True" in text
