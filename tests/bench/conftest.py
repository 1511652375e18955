from __future__ import annotations

from pathlib import Path

import pytest

from runtime.pair.target import Target, load_target
from runtime.prompts import Prompt

PROMPTS = (Prompt(0, "code", "w1 w2 w3"), Prompt(3, "chat", "w5 w1 w40 w2"))


@pytest.fixture(scope="module")
def target(target_folder: Path) -> Target:
    return load_target(str(target_folder), "fp32", "cpu")
