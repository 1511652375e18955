from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM

from tests.loop.tiny import tiny_model


@pytest.fixture(scope="session")
def target() -> LlamaForCausalLM:
    return tiny_model(seed=1)
