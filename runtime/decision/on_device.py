"""Decisions for signals that live on a CUDA device: nothing travels through the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.contract import PUBLISHED_CANDIDATES, SIGNALS
from runtime.decision.selector import OUTPUTS, GammaSelector, check_candidates, check_step_cost, compression_code
from runtime.errors import SpeckvError

if TYPE_CHECKING:
    from torch import Tensor


def select_on_device(
    selector: GammaSelector,
    signals: Tensor,
    compression: str | int,
    candidates: Sequence[int] | None = None,
    step_cost: Sequence[float] | None = None,
) -> Tensor:
    """Decide for a batch whose signals stay on the device; the arguments are those of `GammaSelector.select_batch`.

    The values are not checked: looking at them would bring them to the host.

    Args:
        selector: made with `providers="cuda"`.
        signals: float32 `[batch, 4]` on the selector's CUDA device, contiguous.
        compression: "fp16", "int8" or "nf4", or its code.
        candidates: lengths in tokens.
        step_cost: one a candidate.

    Returns:
        gamma, int64 `[batch]` on the same device.

    Raises:
        SpeckvError: if the selector or the tensor is not on a CUDA device, or the shape or type is another.
    """
    import torch

    if selector.provider != "cuda":
        raise SpeckvError('the selector computes on the CPU: make it with providers="cuda"')
    if not signals.is_cuda or signals.dtype != torch.float32 or signals.shape[1:] != (len(SIGNALS),):
        raise SpeckvError(
            f"signals is {signals.dtype} {list(signals.shape)} on {signals.device}: it must be float32 "
            f"[batch, {len(SIGNALS)}] on a CUDA device"
        )
    lengths = check_candidates(PUBLISHED_CANDIDATES if candidates is None else candidates)
    device = signals.device
    inputs = {
        "signals": signals.contiguous(),
        "comp_enc": torch.full((len(signals),), compression_code(compression), device=device),
        "candidates": torch.from_numpy(lengths).to(device),
        "step_cost": torch.from_numpy(check_step_cost(step_cost, len(lengths))).to(device),
    }
    shape = len(signals), len(lengths)
    outputs = (
        torch.empty(len(signals), dtype=torch.int64, device=device),
        torch.empty(shape, device=device),
        torch.empty(shape, device=device),
    )
    binding = selector.session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_input(name, "cuda", device.index, _element(tensor), tuple(tensor.shape), tensor.data_ptr())
    for name, tensor in zip(OUTPUTS, outputs, strict=True):
        binding.bind_output(name, "cuda", device.index, _element(tensor), tuple(tensor.shape), tensor.data_ptr())
    # onnxruntime computes on a stream of its own: the inputs must be there before, and it waits for itself after.
    torch.cuda.current_stream(device).synchronize()
    selector.session.run_with_iobinding(binding)
    return outputs[0]


def _element(tensor: Tensor) -> type:
    return np.float32 if tensor.is_floating_point() else np.int64
