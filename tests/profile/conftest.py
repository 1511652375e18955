from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.loop.tiny import VOCABULARY, tiny_model


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a tokenizer whose words are `w0` … `w60`, as an ordinary model folder."""
    folder = tmp_path_factory.mktemp("target")
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    tiny_model(seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    tasks = ("code", "math", "chat")
    lines = [f'{{"task": "{tasks[i % 3]}", "prompt": "w{i} w{2 * i} w3"}}' for i in range(19)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
