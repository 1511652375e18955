from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel

from runtime.notice import warn_once
from tests.counts import Tally
from tests.integrations.transformers.pairs import noisy
from tests.loop.tiny import tiny_model

tally = Tally("faults", "faults")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    tally.note(item, call)


def pytest_sessionfinish() -> None:
    tally.write()


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the user is told, as if nothing had been told before."""
    warn_once.cache_clear()
    caplog.set_level("WARNING", "speckv")
    return caplog


@pytest.fixture(scope="session")
def target() -> PreTrainedModel:
    return tiny_model(seed=1, layers=2)


@pytest.fixture(scope="session")
def draft(target: PreTrainedModel) -> PreTrainedModel:
    return noisy(target)
