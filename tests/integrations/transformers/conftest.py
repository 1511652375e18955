from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.integrations.transformers.pairs import noisy, tiny
from tests.loop.tiny import VOCABULARY


@pytest.fixture(scope="session", autouse=True)
def step_times(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Step times are kept here, not in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SPECKV_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture(scope="session")
def draft(model: PreTrainedModel) -> PreTrainedModel:
    return noisy(model)


@pytest.fixture(scope="session")
def bad_draft() -> PreTrainedModel:
    return tiny("llama", seed=2)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Words `w0` … `w59`, and the one that transformers' stop strings try a tokenizer with."""
    words = {**{f"w{i}": i for i in range(VOCABULARY - 1)}, "abcdef": VOCABULARY - 1}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")
