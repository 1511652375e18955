"""The limit that memory sets: bytes that decoding must read, over the bandwidth of a copy.

A step can take no less than reading, once each, the weights of every forward pass and the keys and values cached so
far. What is read again from a cache on the chip comes faster than from memory, so a small model may beat its limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from runtime.bench.score import Runs

COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}
"""Bytes of the tensor that is copied: many times what a chip's caches hold."""
COPIES = 9


@dataclass(frozen=True)
class Reading:
    """Bytes of one model."""

    weights: int
    """That one forward pass reads, whatever its width: of an embedding table of its own it reads only some rows."""
    position: int
    """Keys and values of one position of the text."""

    def forward(self, context: float) -> float:
        """Return the bytes that one forward pass after `context` positions reads."""
        return self.weights + self.position * context


@dataclass(frozen=True)
class Limit:
    """What a pair must read on a device that copies so fast."""

    draft: Reading
    target: Reading
    bandwidth: float
    """Bytes a second, read and written ones together."""

    def tokens_per_second(self, runs: Sequence[Runs], prompts: Sequence[int]) -> float:
        """Return the most tokens a second that runs can give with the steps and drafts that they made.

        Args:
            runs: of each prompt.
            prompts: tokens of each.
        """
        read = sum(self.text_bytes(run, prompt) for run, prompt in zip(runs, prompts, strict=True))
        return sum(median(run.tokens) for run in runs) * self.bandwidth / read

    def text_bytes(self, run: Runs, prompt: int) -> float:
        """Return the bytes of one text: the pass over the prompt, and every step with the text half written."""
        steps, drafted = median(run.steps), median(run.drafted)
        context = prompt + median(run.tokens) / 2
        read = self.target.weights + steps * self.target.forward(context)
        return float(read + (self.draft.weights + drafted * self.draft.forward(context) if drafted else 0))


def pair_limit(draft: PreTrainedModel, target: PreTrainedModel) -> Limit:
    """Return the limit of a loaded pair, on the device that it is on."""
    return Limit(reading(draft), reading(target), copy_bandwidth(target.get_input_embeddings().weight.device))


def reading(model: PreTrainedModel) -> Reading:
    """Return what a loaded model must read."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    unread = 0 if embedding.data_ptr() == head.data_ptr() else embedding.numel() * embedding.element_size()
    return Reading(stored_bytes(model) - unread, cache_bytes(model))


def cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of one position's keys and values."""
    config = model.config.get_text_config()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize)


def stored_bytes(*models: PreTrainedModel) -> int:
    """Return the bytes of the models' weights as they are stored, scales included; shared ones count once."""
    found = {tensor.data_ptr(): tensor for model in models for tensor in _tensors(model)}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def _tensors(model: PreTrainedModel) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)  # bitsandbytes: NF4 blocks, or LLM.int8 rows
        extras: Sequence[object] = (
            getattr(parameter, "SCB", None),
            *(getattr(state, name, None) for name in ("absmax", "code")),
        )
        yield from (tensor for tensor in extras if isinstance(tensor, Tensor))


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes a second, read and written, of copying a large tensor on the device; the median of some."""
    size = COPIED.get(device.type, COPIED["cpu"])
    source = torch.ones(size, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    seconds = []
    for _ in range(COPIES + 1):  # the first warms up
        _finish(device)
        start = time.perf_counter()
        copy.copy_(source)
        _finish(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size / median(seconds[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
