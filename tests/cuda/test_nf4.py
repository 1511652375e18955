"""NF4's decoding in PTX, run by a few lines of Python that know its instructions."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import bitsandbytes.functional as bnb
import pytest
import torch

from runtime.cuda.nf4 import CODE, lookup


def permute(a: int, b: int, selector: int) -> int:
    """`prmt.b32`; a selector's highest bit would spread the byte's sign."""
    both = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    picks = [selector >> 4 * i & 15 for i in range(4)]
    assert max(picks) < 8
    return int.from_bytes(bytes(both[pick] for pick in picks), "little")


INSTRUCTIONS: dict[str, Callable[..., int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "shr": lambda a, b: a >> b,
    "mov": lambda a: a,
    "prmt": permute,
}


def decoded(packed: int, dtype: torch.dtype) -> list[float]:
    """Return the eight values that the lookup of four bytes leaves in its registers, those of the high halves first."""
    size = dtype.itemsize
    registers = {f"${2 * size}": packed}
    for name, destination, sources in re.findall(r"(\w+)\.b32 (\S+), ([^;]+);", lookup(dtype).split(";", 1)[1]):
        values = [registers[s] if s in registers else int(s, 0) for s in sources.split(", ")]
        registers[destination] = INSTRUCTIONS[name](*values)
    held = b"".join(registers[f"${i}"].to_bytes(4, "little") for i in range(2 * size))
    return torch.frombuffer(bytearray(held), dtype=dtype).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_byte_decodes_to_its_two_values(dtype: torch.dtype) -> None:
    values = torch.tensor(CODE).to(dtype).tolist()
    order = list(range(256))
    random.Random(0).shuffle(order)
    for start in range(0, 256, 4):
        four = order[start : start + 4]
        expected = [values[byte >> 4] for byte in four] + [values[byte & 15] for byte in four]
        assert decoded(int.from_bytes(bytes(four), "little"), dtype) == expected


def test_the_values_are_those_of_bitsandbytes() -> None:
    _, state = bnb.quantize_4bit(torch.randn(8, 64), blocksize=64, quant_type="nf4")
    assert state.code.tolist() == torch.tensor(CODE).tolist()
