"""Kernels that start early: their programs are on the device, and may load weights, while the kernel before them ends
(CUDA's programmatic dependent launch, from Hopper on)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

EARLY = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
"""Whether this machine's device can. Kernels take it as a constant, and as their launch option `launch_pdl`."""


@triton.jit
def let_next_start(EARLY: tl.constexpr):
    """Let the next kernel's programs start; it waits by itself for this one's results."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait_for_last(EARLY: tl.constexpr):
    """Wait until all kernels before this one have ended. Nothing they write may be touched earlier."""
    if EARLY:
        gdc_wait()
