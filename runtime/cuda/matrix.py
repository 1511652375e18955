"""The weights of a linear layer, as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT, INT8, NF4 = 0, 1, 2
"""Forms that weights are stored in."""
NF4_BLOCK = 64
"""Weights that share a scale in NF4."""


@dataclass(frozen=True)
class Matrix:
    """The weights of a linear layer, `[outputs, inputs]`, in the form that they are stored in."""

    kind: int
    weight: Tensor
    """FLOAT: `[outputs, inputs]`. INT8: int8 `[outputs, inputs]`. NF4: uint8, two weights a byte, the even one in the
    high half."""
    scale: Tensor
    """INT8: float32 `[outputs]`, largest absolute weight of a row. NF4: float32 `[outputs · inputs / 64]`, of a
    block."""
    code: Tensor
    """NF4: float32 `[16]`, what each code stands for before scaling."""
    bias: Tensor | None
    """`[outputs]`."""
    outputs: int
    inputs: int

    @property
    def aligned(self) -> bool:
        """Whether every row of weights begins at a multiple of 16 bytes."""
        row = self.weight.numel() * self.weight.element_size() // self.outputs
        return self.weight.data_ptr() % 16 == 0 and row % 16 == 0


def float_matrix(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """Return a matrix of plain weights `[outputs, inputs]`."""
    nothing = weight.new_zeros(1, dtype=torch.float32)
    return Matrix(FLOAT, weight, nothing, nothing, bias, *weight.shape)
