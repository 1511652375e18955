"""The linear kernels against the same products in float64."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import Tensor

from runtime.cuda.linear import gated, linear
from runtime.cuda.matrix import INT8, NF4, Matrix, float_matrix
from runtime.cuda.tiles import Tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = 1e-5


def matrix(kind: str, outputs: int, inputs: int, bias: bool = False) -> tuple[Matrix, Tensor]:
    """Return random weights as stored, and the same in float64."""
    weight = torch.randn(outputs, inputs)
    own = torch.randn(outputs, device=DEVICE) if bias else None
    if kind == "float":
        return float_matrix(weight.to(DEVICE), own), weight.double()
    if kind == "int8":
        peak = weight.abs().amax(1)
        stored = (weight / peak[:, None] * 127).round().to(torch.int8)
        exact = stored.double() * peak[:, None].double() / 127
        return Matrix(INT8, stored.to(DEVICE), peak.to(DEVICE), peak.to(DEVICE), own, outputs, inputs), exact
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    exact = bnb.dequantize_4bit(packed, state).double()
    return (
        Matrix(NF4, packed.to(DEVICE), state.absmax.to(DEVICE), state.code.to(DEVICE), own, outputs, inputs),
        exact,
    )


def normed(x: Tensor, gain: Tensor) -> Tensor:
    x = x.double().cpu()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * gain.double().cpu()


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
@pytest.mark.parametrize(("rows", "inputs"), [(1, 64), (5, 192), (70, 576)])
def test_products_side_by_side(kind: str, rows: int, inputs: int) -> None:
    torch.manual_seed(rows)
    parts = [matrix(kind, outputs, inputs, bias=rows == 5) for outputs in (72, 24, 40)]
    wide = torch.randn(rows, 2, inputs, device=DEVICE)
    x, gain = wide[:, 1], torch.rand(inputs, device=DEVICE)  # rows that lie apart
    out = torch.full((rows, 136), torch.nan, device=DEVICE)
    linear(x, tuple(own for own, _ in parts), out, gain=gain, epsilon=EPSILON)
    expected = torch.cat(
        [normed(x, gain) @ weight.T + (0 if own.bias is None else own.bias.double().cpu()) for own, weight in parts],
        1,
    )
    torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-4)


def check(kind: str, rows: int, bias: bool, tile: Tiles) -> None:
    """Every kernel gives the product with this division, after a norm, added to a residual and through a gate."""
    torch.manual_seed(rows)
    own, weight = matrix(kind, 50, 192, bias)
    (gate, w0), (up, w1) = matrix(kind, 22, 192), matrix(kind, 22, 192)
    x, gain = torch.randn(rows, 192, device=DEVICE), torch.rand(192, device=DEVICE)
    out, before = torch.zeros(rows, 50, device=DEVICE), torch.randn(rows, 50, device=DEVICE)
    added, hidden = before.clone(), torch.zeros(rows, 22, device=DEVICE)
    linear(x, (own,), out, gain=gain, epsilon=EPSILON, tile=tile)
    linear(x, (own,), added, residual=True, tile=tile)
    gated(x, gate, up, hidden, gain, EPSILON, tile)
    shift = 0 if own.bias is None else own.bias.double().cpu()
    n = normed(x, gain)
    torch.testing.assert_close(out.cpu().double(), n @ weight.T + shift, rtol=1e-4, atol=1e-4)
    plain = before.double().cpu() + x.double().cpu() @ weight.T + shift
    torch.testing.assert_close(added.cpu().double(), plain, rtol=1e-4, atol=1e-4)
    expected = torch.nn.functional.silu(n @ w0.T) * (n @ w1.T)
    torch.testing.assert_close(hidden.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
@pytest.mark.parametrize(("rows", "m", "k"), [(1, 1, 256), (2, 2, 128), (3, 4, 64), (7, 8, 256)])
def test_few_rows(kind: str, rows: int, m: int, k: int) -> None:
    check(kind, rows, rows == 3, Tiles(m, 4, k, splits=0, warps=1))


DIRECT = Tiles(8, 16, 64, splits=2, warps=2, stages=0)
WIDE_DIRECT = Tiles(16, 8, 64, splits=4, warps=4, stages=0)
LOOP = Tiles(16, 16, 64, splits=2, warps=4, stages=3)
WIDE_LOOP = Tiles(16, 32, 64, splits=4, warps=4, stages=2)
ONE_SPLIT = Tiles(64, 64, 64, splits=1, warps=4, stages=3)


@pytest.mark.parametrize(
    ("kind", "rows", "tile"),
    [
        *(
            (kind, rows, tile)
            for kind in ("float", "int8", "nf4")
            for rows, tile in ((5, DIRECT), (11, WIDE_DIRECT), (20, WIDE_DIRECT), (11, LOOP), (20, WIDE_LOOP))
        ),
        *((kind, 70, ONE_SPLIT) for kind in ("float", "int8")),  # each block of NF4 needs a split of its own
    ],
)
def test_tensor_cores(kind: str, rows: int, tile: Tiles) -> None:
    check(kind, rows, rows == 11, tile)


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("rows", [1, 9])
def test_inputs_of_any_number(kind: str, rows: int) -> None:
    torch.manual_seed(rows)
    own, weight = matrix(kind, 24, 61)
    x, gain, out = (
        torch.randn(rows, 61, device=DEVICE),
        torch.rand(61, device=DEVICE),
        torch.zeros(rows, 24, device=DEVICE),
    )
    linear(x, (own,), out, gain=gain, epsilon=EPSILON)
    torch.testing.assert_close(out.cpu().double(), normed(x, gain) @ weight.T, rtol=1e-4, atol=1e-4)
    hidden = torch.zeros(rows, 24, device=DEVICE)
    assert not own.aligned
    gated(x, own, own, hidden, gain, EPSILON)
    n = normed(x, gain) @ weight.T
    torch.testing.assert_close(hidden.cpu().double(), torch.nn.functional.silu(n) * n, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_weights_of_usual_sizes_are_aligned(kind: str) -> None:
    own, _ = matrix(kind, 8, 64)
    assert own.aligned


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_residual(kind: str) -> None:
    torch.manual_seed(0)
    own, weight = matrix(kind, 96, 128)
    x, out = torch.randn(3, 128, device=DEVICE), torch.randn(3, 96, device=DEVICE)
    before = out.clone()
    linear(x, (own,), out, residual=True)
    expected = before.double().cpu() + x.double().cpu() @ weight.T
    torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_gate(kind: str) -> None:
    torch.manual_seed(0)
    (gate, w0), (up, w1) = matrix(kind, 160, 192), matrix(kind, 160, 192)
    x, gain = torch.randn(4, 192, device=DEVICE), torch.rand(192, device=DEVICE)
    out = torch.full((4, 160), torch.nan, device=DEVICE)
    gated(x, gate, up, out, gain, EPSILON)
    n = normed(x, gain)
    expected = torch.nn.functional.silu(n @ w0.T) * (n @ w1.T)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_half_precision(kind: str, rows: int) -> None:
    """Weights are rounded once, to the model's type, NF4's before they are scaled; then the result is."""
    torch.manual_seed(0)
    own, weight = matrix(kind, 96, 128)
    if kind == "float":
        own = float_matrix(own.weight.half())
        weight = weight.half().double()
    if kind == "nf4":
        peaks, code = own.scale.double().cpu()[:, None], own.code.double().cpu()
        codes = (weight.view(-1, 64, 1) / peaks[..., None] - code).abs().argmin(-1)
        weight = (code.half().double()[codes] * peaks).view(96, 128)
    x, out = torch.randn(rows, 128, device=DEVICE).half(), torch.zeros(rows, 96, device=DEVICE).half()
    linear(x, (own,), out)
    torch.testing.assert_close(out.cpu().double(), x.double().cpu() @ weight.T, rtol=1e-3, atol=1e-3)
