"""Decoding NF4 codes by byte permutes: a GPU looks 16 values up in registers faster than in memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

CODE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""What the 16 codes stand for before scaling (Dettmers et al. 2023, appendix E)."""


def lookup(dtype: torch.dtype) -> str:
    """Return PTX that decodes four bytes at once, for `tl.inline_asm_elementwise` with pack=4.

    In: the bytes, in the last register. Out: the values of their high halves in the first registers, then those of the
    low ones; two of a 16-bit type share a register. Each byte of the values is looked up by itself, for four codes at
    once: among the first eight values, among the last eight, then by the codes' highest bit.
    """
    size = dtype.itemsize
    table = torch.tensor(CODE, dtype=dtype).view(torch.uint8).view(16, size).tolist()
    words = [int.from_bytes(bytes(value), "little") for value in table]
    packed = f"${2 * size}"
    lines = [
        ".reg .b32 low, top, pick, first, last, p0, p1, p2, p3, a, b, c, d;",
        f"and.b32 low, {packed}, 0x77777777;",
        f"and.b32 top, {packed}, 0x88888888;",
        "shr.b32 top, top, 1;",
        "or.b32 pick, top, 0x32103210;",
    ]
    for half in (0, 1):  # two bytes, four codes: low, high, low, high
        if half:
            lines += ["shr.b32 low, low, 16;", "shr.b32 pick, pick, 16;"]
        for plane in range(size):
            parts = [sum((words[start + i] >> 8 * plane & 255) << 8 * i for i in range(4)) for start in range(0, 16, 4)]
            for name, pair in (("first", parts[:2]), ("last", parts[2:])):
                lines += [f"mov.b32 a, {pair[0]:#x};", f"mov.b32 b, {pair[1]:#x};", f"prmt.b32 {name}, a, b, low;"]
            lines.append(f"prmt.b32 p{plane}, first, last, pick;")
        lines += _two_bytes_each(half) if size == 2 else _four_bytes_each(half)
    return "{" + "\n".join(lines) + "}"


def _two_bytes_each(half: int) -> list[str]:
    """Return what puts two planes' bytes together to four values."""
    return [f"prmt.b32 ${2 + half}, p0, p1, 0x6240;", f"prmt.b32 ${half}, p0, p1, 0x7351;"]


def _four_bytes_each(half: int) -> list[str]:
    """Return what puts four planes' bytes together to four values."""
    lines = ["prmt.b32 a, p0, p1, 0x5140;", "prmt.b32 b, p2, p3, 0x5140;"]
    lines += ["prmt.b32 c, p0, p1, 0x7362;", "prmt.b32 d, p2, p3, 0x7362;"]
    for number, (low, high) in enumerate((("a", "b"), ("c", "d"))):
        place = 2 * half + number
        lines += [f"prmt.b32 ${4 + place}, {low}, {high}, 0x5410;", f"prmt.b32 ${place}, {low}, {high}, 0x7632;"]
    return lines


def _on_gpu(dtype: torch.dtype) -> tl.constexpr:
    """Return the lookup; nothing for the kernels' interpreter on the CPU, which knows no PTX and reads a table."""
    return tl.constexpr(lookup(dtype) if torch.cuda.is_available() else "")


FLOAT16, BFLOAT16, FLOAT32 = _on_gpu(torch.float16), _on_gpu(torch.bfloat16), _on_gpu(torch.float32)


@triton.jit
def decoded(packed, code, dtype: tl.constexpr):
    """Return what bytes `[…]` stand for before scaling, rounded to the type, `[…, 2]`; `code` is the table `[16]`."""
    if FLOAT32 == "":
        high = tl.load(code + (packed >> 4).to(tl.int32)).to(dtype)
        low = tl.load(code + (packed & 15).to(tl.int32)).to(dtype)
    elif dtype == tl.float16:
        high, low = tl.inline_asm_elementwise(
            FLOAT16, "=r,=r,=r,=r,r", [packed], (tl.float16, tl.float16), is_pure=True, pack=4
        )
    elif dtype == tl.bfloat16:
        high, low = tl.inline_asm_elementwise(
            BFLOAT16, "=r,=r,=r,=r,r", [packed], (tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        high, low = tl.inline_asm_elementwise(
            FLOAT32, "=r,=r,=r,=r,=r,=r,=r,=r,r", [packed], (tl.float32, tl.float32), is_pure=True, pack=4
        )
    return tl.join(high, low)
