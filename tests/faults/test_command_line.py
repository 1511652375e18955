"""`generate` under faults: what there is of the text is printed, one line says why, and the exit code is as ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.__main__ import main
from runtime.loop import generate as loop_module
from runtime.loop.propose import _Drafting
from runtime.policies.fixed import Fixed
from tests.faults.injections import OUT_OF_MEMORY, raising

NEW = 24


@pytest.fixture
def command(target_folder: Path) -> list[str]:
    pair = ["--target", str(target_folder), "--draft", "early-exit:2", "--device", "cpu"]
    return ["generate", "w3 w1 w4", *pair, "--policy", "fixed:3", "--max-new-tokens", str(NEW)]


@pytest.fixture
def whole(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*command, "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["text"])


def told_on(stderr: str) -> list[str]:
    """The lines on stderr but for transformers' progress bar."""
    return [line for line in stderr.splitlines() if line and "Loading weights" not in line]


def after(calls: int, owner: Any, name: str, act: Callable[..., Any], patch: pytest.MonkeyPatch) -> None:
    """Put `act` in the place of a function after so many calls of it."""
    original, count = getattr(owner, name), iter(range(10**9))
    patch.setattr(owner, name, lambda *given: original(*given) if next(count) < calls else act())


@pytest.mark.parametrize("after_steps", [1, 4])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OUT_OF_MEMORY, 2, "error: the target failed after"),
        (RuntimeError("cuBLAS"), 2, "error: the target failed after"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["memory", "another", "Ctrl-C"],
)
def test_a_text_that_ends_early_is_printed(
    error: BaseException,
    code: int,
    said: str,
    as_json: bool,
    after_steps: int,
    command: list[str],
    whole: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after(after_steps, loop_module, "verify", raising(error), monkeypatch)
    assert main([*command, "--json"] if as_json else command) == code
    captured = capsys.readouterr()
    (line,) = told_on(captured.err)
    assert line.startswith(said)
    if as_json:
        text, steps = (json.loads(captured.out)[key] for key in ("text", "steps"))
        assert steps == after_steps
    else:
        text = captured.out.splitlines()[0].strip()
    assert text
    assert whole.startswith(text)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_without_a_step_nothing_is_printed(
    as_json: bool, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after(0, loop_module, "verify", raising(OUT_OF_MEMORY), monkeypatch)
    assert main([*command, "--json"] if as_json else command) == 2
    assert capsys.readouterr().out == ""


def test_a_draft_that_fails_is_one_line_beside_the_whole_text(
    command: list[str],
    whole: str,
    capsys: pytest.CaptureFixture[str],
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after(5, _Drafting, "_draw", raising(OUT_OF_MEMORY), monkeypatch)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == whole
    assert len(told.messages) == 1


def test_a_policy_that_fails_is_one_line_beside_the_whole_text(
    command: list[str],
    whole: str,
    capsys: pytest.CaptureFixture[str],
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after(3, Fixed, "gamma", raising(ZeroDivisionError()), monkeypatch)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == whole
    assert len(told.messages) == 1


@pytest.mark.parametrize(
    ("prompt", "said"), [("  ", "the prompt is empty"), ("w1 " * 600, "do not fit into the draft's context of 512")]
)
def test_prompts_that_cannot_be_continued(
    prompt: str, said: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", prompt, *command[2:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = told_on(captured.err)
    assert said in line


def test_of_several_prompts_the_one_that_cannot_be_continued_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.loop.backend.choose_backend", None)  # before the loop is prepared
    lines = [json.dumps({"task": "chat", "prompt": words}) for words in ("w1", "w2 " * 600, "w3")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    assert main(["generate", "--prompts", str(tmp_path / "prompts.jsonl"), *command[2:]]) == 2
    (line,) = told_on(capsys.readouterr().err)
    assert line.startswith(f"error: {tmp_path / 'prompts.jsonl'}, prompt 1 (from 0): a prompt of 600 tokens")
