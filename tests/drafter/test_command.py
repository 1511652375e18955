"""The whole command on a tiny target with SmolLM2-like parts replaced by a word-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from export.drafter import agreement, answers, command
from runtime.errors import SpeckvError
from runtime.pair.drafter import load_drafter
from runtime.prompts import Prompt
from tests.drafter.conftest import VOCABULARY, tiny_target


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = tmp_path / "tiny"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    tiny_target().save_pretrained(folder)
    text = tmp_path / "docs"
    text.mkdir()
    (text / "a.txt").write_text("w5 w6 w7 " * 300)
    monkeypatch.setattr(command, "machine_text", _from(text, command.machine_text))
    monkeypatch.setattr(answers, "ANSWER_TOKENS", 20)
    monkeypatch.setattr(agreement, "HELD_OUT_TOKENS", 10)
    monkeypatch.setattr(command, "read_prompts", lambda: [Prompt(0, "code", "w8 w9 w10"), Prompt(1, "chat", "w3 w4")])
    line = f"--target {folder} --output {tmp_path / 'out'} --work {tmp_path / 'work'} --device cpu --json"
    budgets = "--layers 1 2 --minutes 0.02 --generate-minutes 0.001 --prompts 40"
    return [*line.split(), *budgets.split()]


def _from(root: Path, function: object) -> object:
    return lambda tokenizer, tokens, seed: function(tokenizer, tokens, seed, [root])  # type: ignore[operator]


def test_from_prompts_to_packages(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(arguments) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["layers"] for result in results] == [1, 2]
    assert all(result["within_limit"] for result in results)
    assert results[0]["tasks"].keys() == {"code", "chat"}
    loaded = load_drafter(tmp_path / "out" / "2-layers", tiny_target())
    assert loaded.config.num_hidden_layers == 2
    card = (tmp_path / "out" / "2-layers" / "README.md").read_text()
    assert str(tmp_path) not in card

    # A rerun finds everything done, and says so when the limit is lower than the package.
    monkeypatch.setattr(command, "SIZE_LIMIT", 1000)
    assert command.main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert [result["agreement"] for result in again] == [result["agreement"] for result in results]
    assert not any(result["within_limit"] for result in again)
    assert command.main([word for word in arguments if word != "--json"]) == 0
    assert "over" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-1", "0", "many"])
@pytest.mark.parametrize("option", ["--layers", "--prompts", "--batch-tokens"])
def test_what_is_counted_is_a_number_above_0(arguments: list[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([*arguments, option, value])
    assert caught.value.code == 2


def test_too_many_layers_are_refused_before_anything_is_generated(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "generate_answers", None)
    with pytest.raises(SpeckvError, match="--layers 9: the target has 4 layers"):
        command.main([*arguments, "--layers", "2", "9"])
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("option", ["--work", "--output"])
@pytest.mark.parametrize("place", ["file", "file/a", "dangling"])
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(command, "_load_target", None)
    with pytest.raises(SpeckvError, match=f"give another {option}"):
        command.main([*arguments, option, str(tmp_path / place)])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--layers", "9"], "--layers 9: the target has 4 layers"),
        (["--layers", "2", "2"], "given twice"),
        (["--minutes", "0"], "--minutes 0.0: give a number above 0"),
        (["--target", "/nowhere/at-all"], "--target /nowhere/at-all cannot be loaded"),
        (["--device", "quantum"], "--device quantum"),
        (["--device", "meta"], "--device meta: give auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "CUDA devices here, numbered from 0"),
        (["--device", "cuda:99999999999999"], "give auto, cpu"),
    ],
)
def test_bad_input_is_named(arguments: list[str], change: list[str], message: str) -> None:
    with pytest.raises(SpeckvError, match=message):
        command.main([*arguments, *change])


def test_unknown_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([*arguments, "--minute", "3"])
    assert caught.value.code == 2
