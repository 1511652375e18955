"""The target's own continuations of many prompts at once: the text a drafter is asked to predict later.

Plain `generate` keeps finished rows and re-expands grouped key/value heads at every step. Here finished rows leave the
batch, attention reads the filled part of the cache only, and the query heads of a group share one read of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

STRETCH = 32
"""Decoding steps (tokens) between two looks at which rows have ended."""

PREFILL_TOKENS = 131_072


@torch.inference_mode()
def decode(
    target: PreTrainedModel,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stragglers: float = 0.0,
) -> list[list[int]]:
    """Return the continuation of every prompt (token ids), up to and with the end-of-text token.

    Temperature 0 is greedy. Otherwise the token is drawn from softmax(logits / T) by the Gumbel-max trick:
    argmax(logits + T · Gumbel noise). Decoding stops early when only this share of the rows, the `stragglers`, is
    left: their text is kept as far as it goes.
    """
    device = target.device
    few = int(len(prompts) * stragglers)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    sampler = _Sampler(temperature, torch.Generator(device).manual_seed(seed))
    ends = torch.tensor(end_tokens(target), device=device)
    output = torch.full((len(prompts), max_new_tokens), -1, dtype=torch.long, device=device)
    rows = torch.arange(len(prompts), device=device)  # the prompt number of each row still decoding
    prefix = int(lengths.max())
    with _grouped_attention(target):
        cache, hidden = _prefill(target, prompts, prefix + max_new_tokens)
        token = sampler.choose(_logits(target, hidden))
        output[:, 0] = token
        for first in range(1, max_new_tokens, STRETCH):
            alive = ~torch.isin(output, ends).any(1)[rows]
            if int(alive.sum()) <= few:
                break
            rows, token = rows[alive], token[alive]
            cache.keep(alive)
            last = min(first + STRETCH, max_new_tokens)
            mask = _open_slots(lengths[rows], prefix, first - 1, prefix + last - 1, target.dtype)
            for step in range(first, last):
                cache.position = prefix + step - 1
                mask[..., cache.position] = 0
                token = _step(target, cache, token, lengths[rows] + step - 1, mask, sampler)
                output[rows, step] = token
    return [_until_end(row, ends.tolist()) for row in output.tolist()]


def _step(
    target: PreTrainedModel, cache: _Window, token: Tensor, places: Tensor, mask: Tensor, sampler: _Sampler
) -> Tensor:
    hidden = target.base_model(
        input_ids=token[:, None],
        position_ids=places[:, None],
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return sampler.choose(_logits(target, hidden[:, -1]))


def _prefill(target: PreTrainedModel, prompts: list[list[int]], width: int) -> tuple[_Window, Tensor]:
    """Fill the cache with the prompts, padded on the right; return it and the last hidden states `[rows, hidden]`."""
    prefix = max(len(prompt) for prompt in prompts)
    cache = _Window(target, len(prompts), width)
    hidden = []
    rows = max(1, PREFILL_TOKENS // prefix)
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        ids = torch.tensor([prompt + [0] * (prefix - len(prompt)) for prompt in part], device=target.device)
        last = torch.tensor([len(prompt) - 1 for prompt in part], device=target.device)
        cache.filling = slice(start, start + len(part))
        states = target.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        hidden.append(states[torch.arange(len(part), device=target.device), last])
    cache.filling = None
    return cache, torch.cat(hidden)


def _open_slots(lengths: Tensor, prefix: int, decoded: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask `[rows, 1, 1, width]`: 0 at prompt tokens and decoded tokens, -inf elsewhere.

    Each step opens its own slot. The width is rounded up to a multiple of 8, as the fused attention kernels ask.
    """
    slot = torch.arange(-(-width // 8) * 8, device=lengths.device)
    filled = (slot < lengths[:, None]) | ((slot >= prefix) & (slot < prefix + decoded))
    mask = torch.zeros(filled.shape, dtype=dtype, device=lengths.device).masked_fill_(~filled, float("-inf"))
    return mask[:, None, None]


def _logits(target: PreTrainedModel, hidden: Tensor) -> Tensor:
    return target.get_output_embeddings()(hidden)  # type: ignore[no-any-return]


class _Sampler:
    """Chooses the next tokens, greedy or drawn."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature = temperature
        self.generator = generator

    def choose(self, logits: Tensor) -> Tensor:
        """Return int64 `[rows]` from logits `[rows, vocabulary]`."""
        if self.temperature == 0:
            return logits.argmax(-1)
        # -log of an exponential variate is a Gumbel variate.
        exponential = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=self.generator)
        return (logits - exponential.clamp_min_(1e-30).log_().mul_(self.temperature)).argmax(-1)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values `[rows, heads, width, size]` of one layer, allocated once."""

    def __init__(self, window: _Window, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.window = window
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing to do: the memory is there."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return those to attend to."""
        window = self.window
        if window.filling is not None:
            width = key_states.shape[2]
            self.keys[window.filling, :, :width] = key_states
            self.values[window.filling, :, :width] = value_states
            return key_states, value_states
        place = slice(window.position, window.position + 1)
        self.keys[: window.rows, :, place] = key_states
        self.values[: window.rows, :, place] = value_states
        return self.keys[: window.rows], self.values[: window.rows]

    def keep(self, alive: Tensor, count: int) -> None:
        """Move the rows still decoding to the front."""
        for store in (self.keys, self.values):
            store[:count] = store[: len(alive)][alive]

    def get_seq_length(self) -> int:
        """Return 0: positions are always given, or a prompt begins."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the sizes of a prompt's own mask."""
        return query_length, 0

    def get_max_cache_shape(self) -> int:
        """Return the width in tokens."""
        return int(self.keys.shape[2])

    get_max_length = get_max_cache_shape


class _Window(Cache):  # type: ignore[misc]
    """The cache of one batch: prompts first, then one slot per decoded token, the same for every row."""

    def __init__(self, target: PreTrainedModel, rows: int, width: int) -> None:
        config = target.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, -(-width // 8) * 8, size)
        # Zeros, not empty memory: a masked slot has weight 0, and 0 · NaN would still be NaN.
        stores = [
            [torch.zeros(shape, dtype=target.dtype, device=target.device) for _ in "kv"]
            for _ in range(config.num_hidden_layers)
        ]
        super().__init__(layers=[_Layer(self, keys, values) for keys, values in stores])
        self.rows = rows
        self.position = 0
        self.filling: slice | None = None

    def keep(self, alive: Tensor) -> None:
        """Drop the rows that are not alive (bool `[rows]`)."""
        count = int(alive.sum())
        if count < self.rows:
            for layer in self.layers:
                layer.keep(alive, count)
            self.rows = count


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of one token per row: the query heads of a group become the queries of one key/value head."""
    if query.shape[2] > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    batch, heads, _, size = query.shape
    width = attention_mask.shape[-1]
    grouped = query.reshape(batch, key.shape[1], -1, size)
    mask = attention_mask.expand(batch, key.shape[1], grouped.shape[2], width)
    output = scaled_dot_product_attention(
        grouped, key[:, :, :width], value[:, :, :width], attn_mask=mask, scale=options.get("scaling")
    )
    return output.reshape(batch, 1, heads, size), None


@contextmanager
def _grouped_attention(target: PreTrainedModel) -> Iterator[None]:
    AttentionInterface.register("grouped_decode", _attend)
    before = target.config._attn_implementation
    target.config._attn_implementation = "grouped_decode"
    try:
        yield
    finally:
        target.config._attn_implementation = before


def end_tokens(target: PreTrainedModel) -> list[int]:
    """Return the token ids that end a text of the target."""
    end = target.generation_config.eos_token_id
    if end is None:
        end = target.config.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def _until_end(row: list[int], ends: list[int]) -> list[int]:
    for place, token in enumerate(row):
        if token < 0:
            return row[:place]
        if token in ends:
            return row[: place + 1]
    return row
