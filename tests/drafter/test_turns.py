"""User turns that the target writes itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.progress import Progress
from transformers import PreTrainedModel

from export.drafter import turns
from export.drafter.checkpoint import Stop
from export.drafter.turns import own_turns
from tests.drafter.conftest import tiny_target


class Words:
    """A tokenizer of numbers: the text "5 7" is the tokens 5 and 7; 3 begins a turn and 4 ends it."""

    chat_template = "{{ it }}"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        return f"3 {messages[0]['content']} 4 3"

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def batch_decode(self, sequences: list[list[int]]) -> list[str]:
        return [" ".join(map(str, tokens)) for tokens in sequences]


@pytest.fixture(scope="module")
def target() -> PreTrainedModel:
    return tiny_target(seed=3)


def write(target: PreTrainedModel, folder: Path, count: int = 64, tokenizer: object | None = None) -> list[list[int]]:
    with Progress(disable=True) as progress:
        return own_turns(target, tokenizer or Words(), folder, count, 7, progress, Stop())


def test_turns_stand_between_the_templates_ends_and_are_finished(target: PreTrainedModel, tmp_path: Path) -> None:
    prompts = write(target, tmp_path)
    assert 0 < len(prompts) <= 64
    for prompt in prompts:
        assert prompt[0] == 3
        assert prompt[-2:] == [4, 3]
        assert turns.LEAST_TOKENS <= len(prompt) - 3 < turns.TURN_TOKENS
        assert 2 not in prompt  # the end of text that the turn ended with
    assert len({tuple(prompt) for prompt in prompts}) > len(prompts) / 2


def test_finished_chunks_are_read_and_not_written_again(
    target: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "ROWS", 32)
    prompts = write(target, tmp_path)
    assert len(list(tmp_path.glob("turns-*.npz"))) == 2
    monkeypatch.setattr(turns, "decode", None)
    assert write(target, tmp_path) == prompts


def test_a_held_out_prompt_is_dropped(target: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = write(target, tmp_path)
    text = " ".join(map(str, prompts[0][1:-2]))
    prompt = turns.read_prompts()[0]
    monkeypatch.setattr(turns, "read_prompts", lambda: [type(prompt)(0, "chat", text)])
    assert prompts[0] not in write(target, tmp_path)


def test_without_a_chat_template_there_are_no_turns(target: PreTrainedModel, tmp_path: Path) -> None:
    class Plain(Words):
        chat_template = None

    assert write(target, tmp_path, tokenizer=Plain()) == []
    assert list(tmp_path.iterdir()) == []
