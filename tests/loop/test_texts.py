"""Several texts on the plain loop, and `generate --prompts`: each is the text that it is alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from runtime.__main__ import main
from runtime.errors import SpeckvError
from runtime.loop.backend import Backend, choose_backend
from runtime.loop.sampling import Sampling
from runtime.loop.texts import Text
from runtime.policies.fixed import Fixed
from tests.loop.tiny import tiny_model

PROMPTS = [3, 1, 4], [1], [5, 9, 2, 6]


@pytest.fixture(scope="module")
def backend(target: LlamaForCausalLM) -> Backend:
    return choose_backend(tiny_model(seed=2), target, 64, Sampling(), rows=8)


def test_the_plain_loop_has_one_row(backend: Backend) -> None:
    assert (backend.name, backend.rows) == ("eager", 1)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)], ids=["greedy", "sampled"])
def test_texts_are_those_alone(backend: Backend, sampling: Sampling) -> None:
    texts = [Text(prompt, 4 + n) for n, prompt in enumerate(PROMPTS)]
    found = dict(backend.texts(texts, [Fixed(2)], sampling=sampling, seed=7))
    assert sorted(found) == [0, 1, 2]
    for number, (prompt, new, *_) in enumerate(texts):
        alone = list(backend.steps(prompt, Fixed(2), max_new_tokens=new, sampling=sampling, seed=7))
        assert [step.tokens for step in found[number]] == [step.tokens for step in alone]


def test_each_text_has_its_own_end(backend: Backend) -> None:
    whole = [token for step in backend.steps([3, 1, 4], Fixed(2), max_new_tokens=9) for token in step.tokens]

    def stop(before: torch.Tensor, new: object) -> bool:
        return len(before) + len(new) >= 6  # type: ignore[arg-type]

    texts = [Text([3, 1, 4], 9, eos=[whole[4]]), Text([3, 1, 4], 9, stop=stop), Text([3, 1, 4], 9)]
    found = dict(backend.texts(texts, [Fixed(2)]))
    lengths = [sum(len(step.tokens) for step in found[number]) for number in range(3)]
    assert lengths == [whole.index(whole[4]) + 1, 3, 9]


def test_a_text_that_does_not_fit_is_refused_before_any_is_generated(backend: Backend) -> None:
    with pytest.raises(SpeckvError, match="context of 512"):
        next(backend.texts([Text([1], 4), Text([1], 600)], [Fixed(2)]))


def generate(folder: Path, *more: str) -> int:
    return main(["generate", *more, "--target", str(folder), "--draft", "early-exit:2", "--device", "cpu"])


@pytest.mark.parametrize("policy", ["fixed:2", "adaptive"])
def test_every_line_of_the_command_is_the_text_alone(
    target_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path / "cache"))
    words = ["w3 w1", "w4 w1 w5", "w9"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"task": "chat", "prompt": text}) for text in words), encoding="utf-8")
    few = ["--max-new-tokens", "7", "--policy", policy, "--json"]
    assert generate(target_folder, "--prompts", str(prompts), "--rows", "2", *few) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(line["prompt"] for line in lines) == [0, 1, 2]
    for line in lines:
        assert generate(target_folder, words[line["prompt"]], *few) == 0
        alone = json.loads(capsys.readouterr().out)
        assert (line["text"], line["tokens"], line["loop"]) == (alone["text"], alone["tokens"], alone["loop"])
        assert line["task"] == "chat"


def test_the_command_prints_texts_and_a_summary_of_all(
    target_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"task": "chat", "prompt": "w3"}\n{"task": "code", "prompt": "w4"}', encoding="utf-8")
    assert generate(target_folder, "--prompts", str(prompts), "--max-new-tokens", "5", "--policy", "fixed:2") == 0
    output = capsys.readouterr().out
    assert "prompt 0 (chat):" in output
    assert "prompt 1 (code):" in output
    assert "10 in " in output
    assert "rows: 1" in " ".join(output.split())
