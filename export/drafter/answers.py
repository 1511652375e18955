"""The target's answers to the composed prompts, chunk by chunk, each chunk a file: the work resumes at the next one."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from transformers import PreTrainedModel

from export.drafter.checkpoint import Stop
from export.drafter.corpus import AGAIN, LARGEST, Documents, Ints
from export.drafter.generate import decode
from export.drafter.prompts import compose
from export.drafter.shared_file import make_once
from export.drafter.turns import own_turns
from runtime.errors import SpeckvError
from runtime.npz import read_npz
from runtime.pair.target import encode_prompt

ANSWER_TOKENS = 320
TEMPERATURES = (0.0, 1.0, 0.7)
"""One pass over all prompts each, the greedy one first: it is greedy text that a drafter mostly meets."""
CACHE_SHARE = 0.5
"""Share of the device's memory for one chunk's key/value cache."""
STRAGGLERS = 1 / 16
CPU_SLOTS = 16_384
MOST_ROWS = 6144
TURNS_PER_PROMPT = 2


def generate_answers(
    target: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    count: int,
    budget: float,
    seed: int,
    progress: Progress,
    stop: Stop,
) -> Documents:
    """Return prompts (`count` composed ones, twice as many user turns of the target's own) with the target's answers.

    Generates until the budget is spent: seconds of decoding, summed over all runs and over all processes that share the
    folder. At least one chunk is made; three passes over the prompts are the most. The answers are those of the first
    chunks that fill the budget, the same in every process.

    Raises:
        KeyboardInterrupt: between chunks, after a stop was requested; finished chunks stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = _prompt_tokens(tokenizer, count, seed)
    inputs += own_turns(target, tokenizer, folder, TURNS_PER_PROMPT * count, seed, progress, stop)
    task = progress.add_task("generating", total=budget)
    chunks = [
        _Chunk(folder / f"answers-{number:04d}.npz", [inputs[i] for i in chosen], temperature, seed + number)
        for number, (temperature, chosen) in enumerate(_chunks(inputs, _slots(target), seed))
    ]
    for chunk in chunks:
        spent, tokens = _done(chunks)
        text = f"generating  {tokens / 1e6:.2f} M tokens  {tokens / max(spent, 1e-9) / 1e3:.0f} k tok/s"
        progress.update(task, description=text, completed=min(spent, budget))
        stop.check()
        if spent >= budget:
            break
        make_once(chunk.path, partial(chunk.write, target))
    return _fill_budget(chunks, budget, target)


@dataclass(frozen=True)
class _Chunk:
    """Prompts that are answered in one go, at one temperature, and the file that receives them."""

    path: Path
    prompts: list[list[int]]
    temperature: float
    seed: int

    def write(self, target: PreTrainedModel, path: Path) -> None:
        """Generate the answers and write them to `path`."""
        begun = time.monotonic()
        answers = decode(target, self.prompts, ANSWER_TOKENS, self.temperature, self.seed, STRAGGLERS)
        gc.collect()  # the cache and its layers refer to each other; without this two chunks would need room at once
        sequences = [prompt + answer for prompt, answer in zip(self.prompts, answers, strict=True)]
        documents = Documents.of(sequences, [len(prompt) for prompt in self.prompts])
        documents.save(path, seconds=time.monotonic() - begun)

    def seconds(self) -> float:
        """Return what the finished chunk took.

        Raises:
            SpeckvError: if its file is damaged.
        """
        taken = read_npz(self.path, LARGEST, AGAIN).get("seconds")
        if taken is None or taken.shape or not 0 <= taken < np.inf:
            raise SpeckvError(f"{self.path} does not say how long it took: {AGAIN}")
        return float(taken)


def _done(chunks: list[_Chunk]) -> tuple[float, int]:
    """Return seconds and tokens of the finished chunks, whoever made them."""
    finished = [chunk for chunk in chunks if chunk.path.exists()]
    tokens = sum(int(Documents.load(chunk.path).predicted.sum()) for chunk in finished)
    return sum(chunk.seconds() for chunk in finished), tokens


def _fill_budget(chunks: list[_Chunk], budget: float, target: PreTrainedModel) -> Documents:
    """Return the documents of the first chunks that take `budget` seconds, waiting for other processes' chunks."""
    parts: list[Documents] = []
    spent = 0.0
    for chunk in chunks:
        make_once(chunk.path, partial(chunk.write, target), wait=True)
        parts.append(Documents.load(chunk.path))
        spent += chunk.seconds()
        if spent >= budget:
            break
    return Documents.join(parts)


def _prompt_tokens(tokenizer: Any, count: int, seed: int) -> list[list[int]]:
    return [encode_prompt(tokenizer, prompt.text) for prompt in compose(count, seed)]


def _slots(target: PreTrainedModel) -> int:
    """Return how many cache slots (rows · width) of this target a chunk may take."""
    if target.device.type != "cuda":
        return CPU_SLOTS
    config = target.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    slot_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * size * target.dtype.itemsize
    total = torch.cuda.get_device_properties(target.device).total_memory
    return int(CACHE_SHARE * total / slot_bytes)


def _chunks(inputs: list[list[int]], slots: int, seed: int) -> list[tuple[float, Ints]]:
    """Return temperature and prompt numbers of every chunk: prompts of like length together, chunks in random order."""
    random = np.random.default_rng(seed)
    lengths = np.array([len(tokens) for tokens in inputs])
    order = np.argsort(-lengths, kind="stable")
    cuts, start = [], 0
    while start < len(order):
        width = int(lengths[order[start]]) + ANSWER_TOKENS
        rows = min(MOST_ROWS, max(1, slots // width))
        cuts.append(order[start : start + rows])
        start += rows
    return [(temperature, cuts[i]) for temperature in TEMPERATURES for i in random.permutation(len(cuts))]
