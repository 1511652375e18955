from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div

from export.drafter import loss


@pytest.mark.parametrize("chunk_rows", [1, 5, 100])
def test_gradient_is_autograds(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    torch.manual_seed(0)
    head = torch.randn(20, 8)
    states, draft = torch.randn(13, 8), torch.randn(13, 8, requires_grad=True)
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_rows * 20 * 4)
    log_p, log_q = (states @ head.T).log_softmax(-1), (draft @ head.T).log_softmax(-1)
    expected = kl_div(log_q, log_p, log_target=True, reduction="sum")
    (expected / 13).backward()

    (gradient,), sums = loss.distil([draft.detach()], states, head)

    torch.testing.assert_close(gradient, draft.grad)
    torch.testing.assert_close(sums[0, 0], expected.detach())
    assert sums[0, 1] == (log_p.argmax(-1) == log_q.argmax(-1)).sum()


def test_equal_distributions_have_no_gradient() -> None:
    states, head = torch.randn(6, 8), torch.randn(20, 8)
    (gradient,), sums = loss.distil([states.clone()], states, head)
    assert gradient.abs().max() < 1e-6
    assert sums[0, 0].abs() < 1e-4
    assert sums[0, 1] == 6
