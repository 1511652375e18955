from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

# One thread: the models are tiny, and on a busy machine the threads of a pool only wait for each other. Set before
# torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU the kernels of the fast path run in Triton's interpreter; read when triton is imported.
if find_library("cuda") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.loop.tiny import VOCABULARY, tiny_model

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random three-layer model with a tokenizer whose words are `w0` … `w60`, as an ordinary model folder."""
    folder = tmp_path_factory.mktemp("target")
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    tiny_model(seed=1, hidden=64).save_pretrained(folder)  # NF4 on the CPU packs rows of at least 64
    return folder


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    tasks = ("code", "math", "chat")
    lines = [f'{{"task": "{tasks[i % 3]}", "prompt": "w{i} w{2 * i} w3"}}' for i in range(19)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
