"""Tokens per second of many texts against how many are decoded side by side."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PreTrainedModel

from runtime.errors import SpeckvError
from runtime.loop.backend import Backend, choose_backend
from runtime.loop.generate import Step
from runtime.loop.sampling import Sampling
from runtime.loop.texts import Text
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.policy import Policy
from runtime.policies.registry import TIMED, make_policy
from runtime.profile.start_up import start_up_times
from runtime.prompts import Prompt


@dataclass(frozen=True)
class Load:
    """What to decode, and how."""

    draft: str | None
    target: str | None
    policies: tuple[str, ...]
    rows: tuple[int, ...]
    """Ascending; the first is what the others are compared with."""
    prompts: tuple[Prompt, ...]
    """All of them are decoded at every number of rows."""
    max_new_tokens: int
    repeats: int
    device: str


@dataclass(frozen=True)
class Measurement:
    """One policy at one number of rows."""

    precision: str
    rows: int
    policy: str
    loop: str
    """What it ran on; see `Backend.why`."""
    tokens: int
    """New tokens of all texts."""
    seconds: list[float]
    """For all texts, reading the prompts included; one value a repeat."""
    tokens_per_second: float
    """At the median of the repeats."""
    ratio: float
    """Of the tokens per second, to the same policy at the fewest rows."""
    tokens_per_step: float
    """Of a text."""
    mean_gamma: float
    agreement: float
    """Share of the tokens that are those at the fewest rows, each text's up to the first that differs."""
    peak_memory_bytes: int | None
    """On the device, weights included; None on the CPU."""


def measure(load: Load, precision: str, announce: Callable[[str], None]) -> Iterator[Measurement]:
    """Measure every policy at every number of rows, each after a run that is not timed, over a text for each row.

    Args:
        load: what to decode.
        precision: of the target.
        announce: told what begins.

    Raises:
        SpeckvError: if a model cannot be loaded, a text does not fit into it, or the fast loop has no room for so many
            rows.
    """
    announce(f"{precision}: loading")
    target = load_target(load.target, precision, load.device)
    draft = load_draft(load.draft, target)
    first: dict[str, Measured] = {}
    for rows in load.rows:
        for name, measured in _at(load, rows, draft, target, lambda what: announce(f"{precision}: {what}")):
            yield _compare(measured, first.setdefault(name, measured), precision, rows, name)


@dataclass(frozen=True)
class Measured:
    """What the runs of one policy gave."""

    loop: str
    seconds: list[float]
    steps: list[list[Step]]
    """Of each text in the last run."""
    peak_memory_bytes: int | None

    @property
    def tokens(self) -> list[list[int]]:
        """Return the new tokens of each text."""
        return [[token for step in steps for token in step.tokens] for steps in self.steps]

    @property
    def rate(self) -> float:
        """Return tokens per second."""
        return sum(map(len, self.tokens)) / median(self.seconds)


def _at(
    load: Load, rows: int, draft: PreTrainedModel, target: Target, announce: Callable[[str], None]
) -> Iterator[tuple[str, Measured]]:
    """Yield what each policy gave with so many rows."""
    texts = [Text(target.encode(prompt.text), load.max_new_tokens, target.eos) for prompt in load.prompts]
    announce(f"preparing {rows} rows")
    backend = _prepare(draft, target, texts, rows)
    for name in load.policies:
        announce(f"{name}, {rows} rows")
        policies = _policies(load, name, backend, target)
        _decode(backend, texts[:rows], policies)
        runs = [_decode(backend, texts, policies) for _ in range(load.repeats)]
        peak = torch.cuda.max_memory_allocated() if load.device.startswith("cuda") else None
        yield name, Measured(backend.why, [seconds for seconds, _ in runs], runs[-1][1], peak)


def _compare(measured: Measured, first: Measured, precision: str, rows: int, policy: str) -> Measurement:
    """Return what was measured beside the same policy at the fewest rows."""
    steps = [step for steps in measured.steps for step in steps]
    tokens = sum(len(step.tokens) for step in steps)
    return Measurement(
        precision=precision,
        rows=rows,
        policy=policy,
        loop=measured.loop,
        tokens=tokens,
        seconds=measured.seconds,
        tokens_per_second=measured.rate,
        ratio=measured.rate / first.rate,
        tokens_per_step=tokens / len(steps),
        mean_gamma=sum(step.gamma for step in steps) / len(steps),
        agreement=_agreement(measured.tokens, first.tokens),
        peak_memory_bytes=measured.peak_memory_bytes,
    )


def _prepare(draft: PreTrainedModel, target: Target, texts: Sequence[Text], rows: int) -> Backend:
    """Return the loop with so many rows."""
    gc.collect()  # an earlier loop's memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    longest = max(len(text.prompt) + text.max_new_tokens for text in texts)
    backend = choose_backend(draft, target.model, longest, Sampling(), rows)
    if target.model.device.type == "cuda" and backend.graphs is None:
        raise SpeckvError(f"{rows} rows: {backend.why}; choose fewer rows or another pair")
    return backend


def _policies(load: Load, name: str, backend: Backend, target: Target) -> list[Policy]:
    times = None
    if name in TIMED:
        times = start_up_times(load.draft, backend.draft, target, lambda: None, backend.graphs)
    return [make_policy(name, target.compression, times) for _ in range(backend.rows)]


def _decode(backend: Backend, texts: Sequence[Text], policies: Sequence[Policy]) -> tuple[float, list[list[Step]]]:
    """Return the seconds for all texts, and the steps of each."""
    start = time.perf_counter()
    found = dict(backend.texts(texts, policies))
    seconds = time.perf_counter() - start
    return seconds, [found[number] for number in range(len(texts))]


def _agreement(tokens: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    agreeing = 0
    for own, other in zip(tokens, others, strict=True):
        pairs = enumerate(zip(own, other, strict=False))
        agreeing += next((place for place, (one, two) in pairs if one != two), min(len(own), len(other)))
    return agreeing / sum(map(len, others))
