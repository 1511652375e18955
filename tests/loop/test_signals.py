"""The draft's signals: entropy in bits, top-1 and top-2 probability, and their summary."""

from __future__ import annotations

import math

import pytest
import torch

from runtime.loop.propose import token_signals
from runtime.policies.policy import Drafted, TokenSignals


def test_signals_of_known_distributions() -> None:
    uniform = torch.zeros(1, 8)
    assert token_signals(uniform)[0].tolist() == pytest.approx([3.0, 0.125, 0.125])
    p = torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    assert token_signals(p.log())[0].tolist() == pytest.approx([1.5, 0.5, 0.25])
    certain = torch.tensor([[0.0, -math.inf, -math.inf]])
    assert token_signals(certain)[0].tolist() == [0.0, 1.0, 0.0]


def test_summary_is_mean_and_extreme() -> None:
    drafted = Drafted([TokenSignals(1.0, 0.9, 0.05), TokenSignals(3.0, 0.5, 0.3)])
    assert drafted.count == 2
    assert drafted.signals() == pytest.approx((2.0, 0.7, 3.0, 0.5))
