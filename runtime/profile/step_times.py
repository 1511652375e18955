"""Step times: milliseconds of one forward of the draft, and of the target on q tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

if TYPE_CHECKING:
    from runtime.cuda.pair import GraphPair

CONTEXT = 300
"""Tokens in the cache while a forward is timed."""
DRAFT_WIDTHS = (1, 2)
TARGET_WIDTHS = (1, 2, 3, 5, 7, 9, 13, 17)
"""Tokens q in one call; a draft also takes two after a step whose tokens were all accepted."""
GRAPH_WIDTHS = (1, 2, 3, 5, 8, 9, 16, 17)
"""Likewise on the fast loop, whose kernels work on 1, 2, 8 or 16 tokens, or on more."""
REPEATS = 15
GRAPH_WARM_UP_ROUNDS, GRAPH_REPEATS = 20, 40
"""Rounds on the fast loop, whose device takes some tenths of a second to reach its speed."""
SPARED_WIDTH = 5
"""Tokens of a call with spares."""
CHAIN = 4
"""Tokens drafted at once, of which all but the first are timed together."""
BATCH_WIDTHS = (33, 65, 129, 257)
"""What an engine that verifies many texts at once puts into one call of the target."""
BATCH_REPEATS = 5
"""They take long, and their time varies less."""


class Timed(Protocol):
    """A model whose single forwards can be timed."""

    def forward_ms(self, tokens: int) -> float:
        """Return the milliseconds of one forward on `tokens`, until its result is there."""
        ...


class TimedModel:
    """A model whose cache holds `context` tokens, so that single eager forwards on some more can be timed."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, context: int = CONTEXT) -> None:
        self.model = model
        self.cache = DynamicCache()
        device = model.get_input_embeddings().weight.device
        self.tokens = torch.arange(context, device=device)[None] % model.config.get_text_config().vocab_size
        model(self.tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def forward_ms(self, tokens: int) -> float:
        """Return the milliseconds of one forward on `tokens` ≤ `context`, until its logits are there."""
        start = time.perf_counter()
        logits = self.model(self.tokens[:, :tokens], past_key_values=self.cache, use_cache=True).logits
        logits[0, -1, 0].item()  # waits for the device
        milliseconds = (time.perf_counter() - start) * 1e3
        self.cache.crop(-tokens)
        return milliseconds


def measure_step_times(model: PreTrainedModel, widths: Sequence[int], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median milliseconds of an eager forward per width, as `{"eager1": …}`; see `measure_widths`."""
    return measure_widths("eager", TimedModel(model), widths, repeats)


def measure_graph_times(pair: GraphPair) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median milliseconds of the fast loop's calls, of the draft and of the target, as `{"graph1": …}`.

    Of the draft also what `StepTimes` calls chained and foreseen, as "chained1" and "foreseen1"; of the target a call
    with spares among its tokens, as "spared5".
    """
    from runtime.cuda.times import TimedChain, TimedDraft, TimedSpares, TimedTarget
    from runtime.stopper.stopper import Stopper

    pair.begin({0: [0] * CONTEXT})
    draft, foreseen, chain = TimedDraft(pair), TimedDraft(pair, Stopper()), TimedChain(pair)
    calls: dict[tuple[str, int], Timed] = {("graph", width): draft for width in DRAFT_WIDTHS}
    calls |= {("foreseen", 1): foreseen, ("chain", CHAIN): chain}
    of_draft = _medians(calls, GRAPH_REPEATS, GRAPH_WARM_UP_ROUNDS)
    chained = round((of_draft.pop(f"chain{CHAIN}") - of_draft["graph1"]) / (CHAIN - 1), 4)
    if 0 < chained < of_draft["graph1"]:  # else the machine was too busy to tell
        of_draft["chained1"] = chained
    calls = {("graph", width): TimedTarget(pair) for width in GRAPH_WIDTHS}
    calls["spared", SPARED_WIDTH] = TimedSpares(pair)
    return of_draft, _medians(calls, GRAPH_REPEATS, GRAPH_WARM_UP_ROUNDS)


def measure_widths(backend: str, timed: Timed, widths: Sequence[int], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median milliseconds of a forward per width, as BACKEND and width, at a context of 300 tokens.

    The widths are interleaved, so that a machine that slows down slows all of them.
    """
    return _medians({(backend, width): timed for width in widths}, repeats, 2)


def _medians(calls: Mapping[tuple[str, int], Timed], repeats: int, warm_up: int) -> dict[str, float]:
    """Return the median milliseconds of calls, (kind, tokens) → what makes them, after some rounds that warm up."""
    samples: dict[str, list[float]] = {}
    for round_ in range(warm_up + repeats):
        for (kind, tokens), timed in calls.items():
            milliseconds = timed.forward_ms(tokens)
            if round_ >= warm_up:
                samples.setdefault(f"{kind}{tokens}", []).append(milliseconds)
    return {name: round(float(np.median(values)), 4) for name, values in samples.items()}
