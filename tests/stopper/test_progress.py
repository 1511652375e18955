"""The features of the tokens drafted so far, against a computation over all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.policies.policy import TokenSignals
from runtime.stopper.progress import LEAST_LOG, MOST_LEAD, NAMES, NOTHING, Progress

probabilities = st.floats(0, 1)
tokens = st.builds(TokenSignals, st.floats(0, 16), probabilities, probabilities)


def features(drafted: list[TokenSignals]) -> dict[str, float]:
    progress, values = Progress(), NOTHING
    for token in drafted:
        values = progress.add(token)
    assert progress.count == len(drafted)
    return dict(zip(NAMES, values, strict=True))


@given(st.lists(tokens, min_size=1, max_size=20))
def test_the_features_are_those_of_the_whole_draft(drafted: list[TokenSignals]) -> None:
    entropy, top1, top2 = np.array(drafted).T
    p = np.clip(top1, 1e-4, 1 - 1e-4)
    logits = np.log(p) - np.log1p(-p)
    expected = {
        "nothing_drafted": 0,
        "log_drafted": np.log(1 + len(drafted)),
        "logit": logits[-1],
        "logit_change": logits[-1] - logits[-2] if len(drafted) > 1 else 0,
        "lowest_logit": logits.min(),
        "log_product": max(np.log(np.maximum(top1, 1e-3)).sum(), LEAST_LOG),
        "log_lead": min(np.log(max(top1[-1], 1e-4)) - np.log(max(top2[-1], 1e-4)), MOST_LEAD),
        "top2": top2[-1],
        "entropy": entropy[-1],
        "mean_entropy": entropy.mean(),
        "max_entropy": entropy.max(),
    }
    found = features(drafted)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert np.isfinite(list(found.values())).all()


def test_before_anything_is_drafted_only_that_is_said() -> None:
    assert features([]) == {name: float(name == "nothing_drafted") for name in NAMES}


def test_two_tokens_by_hand() -> None:
    found = features([TokenSignals(1.0, 0.5, 0.25), TokenSignals(3.0, 0.8, 0.1)])
    assert found["logit"] == found["logit_change"] == pytest.approx(math.log(4))
    assert found["lowest_logit"] == 0
    assert found["log_product"] == pytest.approx(math.log(0.4))
    assert found["log_lead"] == pytest.approx(math.log(8))
    assert (found["mean_entropy"], found["max_entropy"], found["top2"]) == (2, 3, 0.1)


def test_a_draft_of_a_hundred_thousand_tokens_stays_finite() -> None:
    progress = Progress()
    for place in range(100_000):
        values = progress.add(TokenSignals(16.0, place % 2, 0.0))
    found = dict(zip(NAMES, values, strict=True))
    assert np.isfinite(list(found.values())).all()
    assert (found["log_product"], found["mean_entropy"]) == (LEAST_LOG, 16)
