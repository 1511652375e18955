"""The CUDA provider decides as the CPU does, also for signals that never leave the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime import GammaSelector, SpeckvError
from runtime.decision.latency import random_signals
from runtime.decision.on_device import select_on_device
from runtime.decision.session import PROVIDERS, import_onnxruntime


@pytest.fixture(scope="module")
def cuda() -> GammaSelector:
    if PROVIDERS["cuda"] not in import_onnxruntime().get_available_providers():
        pytest.skip("this onnxruntime is a build without CUDA: pip install speckv[gpu]")
    return GammaSelector(providers="cuda")


@pytest.mark.parametrize("compression", ["fp16", "int8", "nf4"])
def test_the_cuda_provider_decides_as_the_cpu(cuda: GammaSelector, compression: str) -> None:
    rows = random_signals(4096)
    on_cpu, on_cuda = (selector.select_batch(rows, compression) for selector in (GammaSelector(), cuda))
    np.testing.assert_array_equal(on_cuda.gamma, on_cpu.gamma)
    np.testing.assert_allclose(on_cuda.expected_tokens, on_cpu.expected_tokens, atol=1e-6)
    np.testing.assert_allclose(on_cuda.predicted_acceptance_rate, on_cpu.predicted_acceptance_rate, atol=1e-6)
    assert [cuda.select(row, compression).gamma for row in rows[:32].tolist()] == on_cpu.gamma[:32].tolist()


def test_the_first_of_equal_candidates_wins_on_cuda_too(cuda: GammaSelector) -> None:
    sure = (32.0, 0.0, 32.0, 0.0)
    assert cuda.select(sure, "fp16", [6, 2, 8], step_cost=[7.0, 3.0, 9.0]).gamma == 6


@pytest.mark.parametrize("compression", ["fp16", "int8", "nf4"])
def test_signals_that_stay_on_the_device(cuda: GammaSelector, compression: str) -> None:
    rows = random_signals(4096)
    gamma = select_on_device(cuda, torch.from_numpy(rows).cuda(), compression)
    assert gamma.is_cuda
    np.testing.assert_array_equal(gamma.cpu().numpy(), GammaSelector().select_batch(rows, compression).gamma)


def test_signals_on_the_host_are_refused(cuda: GammaSelector) -> None:
    with pytest.raises(SpeckvError, match="on a CUDA device"):
        select_on_device(cuda, torch.from_numpy(random_signals(2)), "fp16")
    with pytest.raises(SpeckvError, match='providers="cuda"'):
        select_on_device(GammaSelector(), torch.from_numpy(random_signals(2)).cuda(), "fp16")
