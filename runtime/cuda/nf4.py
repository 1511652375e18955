"""Decoding NF4 codes by byte permutes: a GPU looks 16 values up in registers faster than in memory."""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl

CODE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""What the 16 codes stand for before scaling (Dettmers et al. 2023, appendix E)."""


def lookup() -> str:
    """Return PTX that decodes four bytes at once, for `tl.inline_asm_elementwise` with pack=4.

    In: `$8`, the bytes. Out: `$0` … `$3`, the float32 values of their high halves, and `$4` … `$7`, of the low ones.
    Each of the values' four bytes is looked up by itself, for four codes at once: among the first eight values, among
    the last eight, then by the codes' highest bit.
    """
    words = [struct.unpack("<I", struct.pack("<f", value))[0] for value in CODE]
    lines = [
        ".reg .b32 low, top, pick, first, last, p0, p1, p2, p3, a, b, c, d;",
        "and.b32 low, $8, 0x77777777;",
        "and.b32 top, $8, 0x88888888;",
        "shr.b32 top, top, 1;",
        "or.b32 pick, top, 0x32103210;",
    ]
    for half in (0, 1):  # two bytes, four codes: low, high, low, high
        if half:
            lines += ["shr.b32 low, low, 16;", "shr.b32 pick, pick, 16;"]
        for plane in range(4):
            table = [sum((words[start + i] >> 8 * plane & 255) << 8 * i for i in range(4)) for start in range(0, 16, 4)]
            for name, pair in (("first", table[:2]), ("last", table[2:])):
                lines += [f"mov.b32 a, {pair[0]:#x};", f"mov.b32 b, {pair[1]:#x};", f"prmt.b32 {name}, a, b, low;"]
            lines.append(f"prmt.b32 p{plane}, first, last, pick;")
        # The four planes' bytes, put together to the four values.
        lines += ["prmt.b32 a, p0, p1, 0x5140;", "prmt.b32 b, p2, p3, 0x5140;"]
        lines += ["prmt.b32 c, p0, p1, 0x7362;", "prmt.b32 d, p2, p3, 0x7362;"]
        low, high = f"${4 + 2 * half}", f"${2 * half}"
        lines += [f"prmt.b32 {low}, a, b, 0x5410;", f"prmt.b32 {high}, a, b, 0x7632;"]
        low, high = f"${5 + 2 * half}", f"${1 + 2 * half}"
        lines += [f"prmt.b32 {low}, c, d, 0x5410;", f"prmt.b32 {high}, c, d, 0x7632;"]
    return "{" + "\n".join(lines) + "}"


LOOKUP = tl.constexpr(lookup() if torch.cuda.is_available() else "")
"""The kernels' interpreter on the CPU, which knows no PTX, reads a table."""


@triton.jit
def decoded(packed, code):
    """Return what bytes `[…]` stand for before scaling, float32 `[…, 2]`; `code` is the table `[16]`."""
    if LOOKUP != "":
        high, low = tl.inline_asm_elementwise(
            LOOKUP, "=r,=r,=r,=r,=r,=r,=r,=r,r", [packed], (tl.float32, tl.float32), is_pure=True, pack=4
        )
    else:
        high = tl.load(code + (packed >> 4).to(tl.int32))
        low = tl.load(code + (packed & 15).to(tl.int32))
    return tl.join(high, low)
