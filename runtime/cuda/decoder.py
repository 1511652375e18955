"""The forward pass of a Llama-like decoder over a few new tokens of one or more texts, on static buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.cuda.attention import attend, scratch
from runtime.cuda.cache import move
from runtime.cuda.linear import gated, linear
from runtime.cuda.tokens import Spares, embed
from runtime.cuda.weights import Layer, Weights

MOST_PROGRAMS = 1024
"""Programs of one attention call at most; a large GPU has some 130 processors."""


class Decoder:
    """A model's weights with a static KV cache: a row for each of `texts` texts of up to `capacity` tokens.

    Every call works in the same buffers, so that it can be captured as a CUDA graph.

    Args:
        weights: of the model.
        texts: rows of the cache.
        capacity: positions of each row.
        calls: the largest ones: texts, and new tokens of each.
    """

    def __init__(self, weights: Weights, texts: int, capacity: int, calls: Sequence[tuple[int, int]]) -> None:
        self.weights = weights
        heads, kv_heads, dim = weights.heads, weights.kv_heads, weights.dim
        like = weights.embedding
        shape = len(weights.layers), texts, kv_heads, capacity, dim
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.cos, self.sin = weights.angles(capacity)
        rows = max(count * width for count, width in calls)
        self.x = like.new_empty(rows, like.shape[1])
        self.qkv = like.new_empty(rows, (heads + 2 * kv_heads) * dim)
        self.attended = like.new_empty(rows, heads * dim)
        self.hidden = like.new_empty(rows, weights.layers[0].gate.outputs)
        self.splits = _splits(texts * kv_heads, capacity)
        sizes = [scratch(count, kv_heads, heads // kv_heads, dim, width, self.splits) for count, width in calls]
        parts, arrived = (max(size) for size in zip(*sizes, strict=True))
        self.parts = torch.empty(parts, dtype=torch.float32, device=like.device)
        self.arrived = torch.zeros(arrived, dtype=torch.int32, device=like.device)

    def forward(
        self, text: Tensor, rows: Tensor, starts: Tensor, offset: int, width: int, spares: Spares | None = None
    ) -> Tensor:
        """Run the layers on the tokens `text[rows[b], starts[b] + offset … + width]`, and cache them in the same rows.

        Args:
            text: int32 `[texts, capacity]`.
            rows: int32 `[n]`, n ≤ texts; one may be named twice, with the same start.
            starts: int32 `[n]`.
            offset: see above.
            width: n texts of as many are one of `calls`, or smaller.
            spares: which of the tokens are others; of all texts, then. Their depths have been taken.

        Returns:
            What the layers left, `[n, width, size]`, a view of a buffer.
        """
        x = self.x[: len(rows) * width]
        embed(text, rows, starts, offset, width, self.weights.embedding, x, spares)
        depths = spares.depths if spares else None
        for index, layer in enumerate(self.weights.layers):
            self._layer(index, layer, x, rows, starts, offset, width, depths)
        return x.view(len(rows), width, -1)

    def keep(self, spares: Spares) -> None:
        """Cache the spares that stand where they belong in their texts."""
        move(self.keys, self.values, spares.moves)

    def _layer(
        self,
        index: int,
        layer: Layer,
        x: Tensor,
        rows: Tensor,
        starts: Tensor,
        offset: int,
        width: int,
        depths: Tensor | None,
    ) -> None:
        weights, count = self.weights, len(x)
        qkv, attended, hidden = self.qkv[:count], self.attended[:count], self.hidden[:count]
        linear(x, (layer.q, layer.k, layer.v), qkv, gain=layer.attention_gain, epsilon=weights.epsilon)
        attend(
            qkv, self.cos, self.sin, self.keys[index], self.values[index], rows, starts, offset, width,
            weights.dim**-0.5, attended, self.parts, self.arrived, self.splits, depths,
        )  # fmt: skip
        linear(attended, (layer.o,), x, residual=True)
        gated(x, layer.gate, layer.up, hidden, layer.mlp_gain, weights.epsilon)
        linear(hidden, (layer.down,), x, residual=True)

    def head(self, x: Tensor, out: Tensor) -> None:
        """Write the logits of `[rows, size]` into `out` `[rows, V]`, rounded as the model rounds them."""
        linear(x, (self.weights.head,), out, gain=self.weights.final_gain, epsilon=self.weights.epsilon)


def _splits(heads: int, capacity: int) -> int:
    """Return the programs of a head: one for the new tokens, and shares of the cached positions.

    5 shares of 400 positions and 16 of 4000 were fastest or nearly so on an H200. Many are multiples of four, so that
    texts of about the same length need the same kernels.
    """
    shares = max(1, min(math.isqrt(capacity) // 4, MOST_PROGRAMS // heads))
    return (shares if shares < 8 else shares // 4 * 4) + 1
