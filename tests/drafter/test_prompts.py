from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from export.drafter.prompts import compose
from runtime.errors import SpeckvError
from runtime.prompts import TASKS, Prompt, read_prompts


def test_composition_is_deterministic_distinct_and_complete() -> None:
    prompts = compose(32_000, 42)
    assert prompts[:9000] == compose(9000, 42)
    assert prompts[:50] != compose(50, 43)
    assert len({prompt.text for prompt in prompts}) == 32_000
    assert Counter(prompt.task for prompt in prompts) == dict.fromkeys(TASKS, 8000)


def test_training_shares_nothing_with_the_held_out_prompts() -> None:
    held_out = [" ".join(prompt.text.lower().split()) for prompt in read_prompts()]
    trained = {" ".join(prompt.text.lower().split()) for prompt in compose(32_000, 42)}
    assert trained.isdisjoint(held_out)


def test_too_many_prompts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import export.drafter.prompts as module

    monkeypatch.setattr(module, "PATTERNS", {task: ["only one"] for task in TASKS})
    with pytest.raises(SpeckvError, match="ask for fewer"):
        compose(10, 0)


def test_default_set() -> None:
    prompts = read_prompts()
    assert all(count >= 24 for count in Counter(prompt.task for prompt in prompts).values())
    assert {prompt.task for prompt in prompts} == set(TASKS)
    assert [prompt.index for prompt in prompts] == list(range(len(prompts)))
    for prompt in prompts:
        if prompt.task == "summarization":
            assert 80 <= len(prompt.text.split("\n\n", 1)[1].split()) <= 200


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"task": "law", "prompt": "Is it?"}\n\n{"prompt": "Ja, ü", "task": "chat"}\n', encoding="utf-8")
    assert read_prompts(path) == [Prompt(0, "law", "Is it?"), Prompt(1, "chat", "Ja, ü")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"task": "chat"}', "line 2: field 'prompt'"),
        ('{"task": 3, "prompt": "x"}', "line 2: field 'task'"),
        ('{"task": "chat", "prompt": " "}', "line 2: field 'prompt'"),
        ('{"task": "a b", "prompt": "x"}', "line 2: field 'task'"),
        ('{"task": "chat", "prompt": "x", "id": 1}', "line 2: unknown field 'id'"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"task": "chat", "prompt": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(SpeckvError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_missing_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match=r"nowhere\.jsonl"):
        read_prompts(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(SpeckvError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.jsonl")
