"""What a policy will answer while a step drafts, foreseen on the device: it need not wait for the host to ask.

A policy with a `Rule` drafts on while S · (probability of the next token) > least, both from the acceptance model. The
device does that arithmetic where it has the signals, behind every draft forward, and tells the host the answer together
with the token. The policy is asked all the same, while the device goes on as foreseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.launch import EARLY, let_next_start, wait_for_last
from runtime.cuda.tokens import store_four
from runtime.policies.adaptive import Rule
from runtime.policies.price import BINS, LONGEST, Price
from runtime.stopper import history, progress
from runtime.stopper.stopper import Stopper, Weights

UNITS = 64
"""Hidden units of the acceptance model, at most."""
STATE = 6
"""What a token leaves to the next one: survival, and the sums and extremes of `Progress`."""
MOST_LOGIT, LEAST_FACTOR = tl.constexpr(history.MOST_LOGIT), tl.constexpr(progress.LEAST_FACTOR)
LEAST_LOG, MOST_LEAD = tl.constexpr(progress.LEAST_LOG), tl.constexpr(progress.MOST_LEAD)


def _same(one: Weights, other: Weights) -> bool:
    return all(map(np.array_equal, one, other))


@triton.jit
def _logit(p):
    inside = (p > 1e-4) & (p < 1 - 1e-4)
    return tl.where(inside, tl.log(p / (1 - p)), tl.where(p > 0.5, MOST_LOGIT, -MOST_LOGIT))


@triton.jit
def _foresee(
    signals, weights, out_weights, bias, contexts, kept, least, state, slot, host,
    UNITS: tl.constexpr, LONGEST: tl.constexpr, BINS: tl.constexpr, BINS_TILE: tl.constexpr, STATE: tl.constexpr,
    FIRST: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Answer for one text after the token number `slot`, and tell the host; features as in `Progress`."""
    let_next_start(EARLY)
    row, texts = tl.program_id(0), tl.num_programs(0)
    units, bins = tl.arange(0, UNITS), tl.arange(0, BINS_TILE)
    # Weights of the features, in their order; the first feature says that nothing is drafted.
    w = weights + units
    w1, w2, w3, w4 = tl.load(w + UNITS), tl.load(w + 2 * UNITS), tl.load(w + 3 * UNITS), tl.load(w + 4 * UNITS)
    w5, w6, w7 = tl.load(w + 5 * UNITS), tl.load(w + 6 * UNITS), tl.load(w + 7 * UNITS)
    w8, w9, w10 = tl.load(w + 8 * UNITS), tl.load(w + 9 * UNITS), tl.load(w + 10 * UNITS)
    accepted_weights, following_weights = tl.load(out_weights + units), tl.load(out_weights + UNITS + units)
    accepted_bias, following_bias = tl.load(bias), tl.load(bias + 1)
    needed = tl.load(
        least + (row * LONGEST + tl.minimum(slot + 1, LONGEST - 1)) * (BINS + 1) + bins, mask=bins <= BINS, other=0.0
    )
    if FIRST:
        # On the host, which takes long; no kernel writes it. Not a number where there is no rule, or not yet all of it.
        step = tl.load(contexts + row * UNITS + units, volatile=True)
        tl.store(kept + row * UNITS + units, step)
        before, last_logit, product, total = 1.0, 0.0, 0.0, 0.0
        lowest, most = MOST_LOGIT, 0.0
    else:
        step = tl.load(kept + row * UNITS + units)
        past = state + ((slot - 1) * texts + row) * STATE
        before, last_logit, lowest = tl.load(past), tl.load(past + 1), tl.load(past + 2)
        product, total, most = tl.load(past + 3), tl.load(past + 4), tl.load(past + 5)
    wait_for_last(EARLY)
    latest = signals + (slot * texts + row) * 5
    entropy, top1, top2, token = tl.load(latest), tl.load(latest + 1), tl.load(latest + 2), tl.load(latest + 3)
    logit = _logit(top1)
    lowest, most, total = tl.minimum(lowest, logit), tl.maximum(most, entropy), total + entropy
    product = tl.maximum(product + tl.where(top1 > 1e-3, tl.log(tl.maximum(top1, 1e-3)), LEAST_FACTOR), LEAST_LOG)
    lead = tl.minimum(tl.log(tl.maximum(top1, 1e-4) / tl.maximum(top2, 1e-4)), MOST_LEAD)
    hidden = step + w1 * tl.log(slot + 2.0) + w2 * logit + w4 * lowest + w5 * product + w6 * lead
    hidden += w7 * top2 + w8 * entropy + w9 * (total / (slot + 1.0)) + w10 * most
    if not FIRST:
        hidden += w3 * (logit - last_logit)
    hidden = tl.maximum(hidden, 0.0)
    accepted = tl.sigmoid(tl.sum(accepted_weights * hidden, 0) + accepted_bias)
    following = tl.sigmoid(tl.sum(following_weights * hidden, 0) + following_bias)
    unknown = tl.sum((step != step).to(tl.int32), 0) + (entropy != entropy).to(tl.int32) + (top1 != top1).to(tl.int32)
    survival = tl.where(unknown == 0, before * accepted, float("nan"))
    threshold = tl.sum(tl.where(bins == (following * BINS).to(tl.int32), needed, 0.0), 0)
    known = (survival == survival) & (slot + 1 < LONGEST)
    answer = tl.where(survival * following > threshold, 1.0, 0.0)
    told = host + row * 5
    store_four(told, entropy, top1, top2, token)
    tl.store(told + 4, tl.where(known, answer, float("nan")))
    own = state + (slot * texts + row) * STATE
    tl.store(own, survival)
    tl.store(own + 1, logit)
    tl.store(own + 2, lowest)
    tl.store(own + 3, product)
    tl.store(own + 4, total)
    tl.store(own + 5, most)


class Foresight:
    """The rules of the step under way, for every text of a pair.

    Before any step `choose` says with which model, `give` sets the rules of a step, and `read` stands behind each of
    its draft calls, from the first one on. If that is begun before there are rules, `forget` goes before it.

    Args:
        slots: tokens drafted in a step at most.
        texts: of the pair.
        device: of the pair.
    """

    def __init__(self, slots: int, texts: int, device: torch.device) -> None:
        zeros, on_host = partial(torch.zeros, device=device), partial(torch.full, pin_memory=device.type == "cuda")
        self._weights, self._out_weights, self._bias = zeros(len(progress.NAMES), UNITS), zeros(2, UNITS), zeros(2)
        self._contexts, self._kept = on_host((texts, UNITS), math.nan), zeros(texts, UNITS)
        self._given = self._contexts.numpy()
        self._tables, self._least = on_host((texts, LONGEST, BINS + 1), 0.0), zeros(texts, LONGEST, BINS + 1)
        self._state = zeros(slots, texts, STATE)
        self._prices: list[Price | None] = [None] * texts
        self._model: Weights | None = None
        self._known: dict[int, tuple[Stopper, bool]] = {}

    def choose(self, stopper: Stopper | None) -> bool:
        """Foresee with this acceptance model from now on, all texts whose policies have the same; return False if there
        is none, or it is too large."""
        self.forget()
        model = stopper.weights if stopper else None
        if model is None or model[1].shape[1] > UNITS:
            return False
        if self._model is None or not _same(model, self._model):
            for to, values in zip((self._weights, self._out_weights), model, strict=False):
                to.zero_()[:, : values.shape[1]] = torch.from_numpy(values)
            self._bias.copy_(torch.from_numpy(model[2]))
            self._model = model
            self._known.clear()
        return True

    def forget(self) -> None:
        """Foresee nothing until the rules of a step are given."""
        self._given.fill(math.nan)

    def give(self, rules: Mapping[int, Rule]) -> None:
        """Set the rules of a step, row → rule, before or while its first token is drafted; other rows have none."""
        if len(rules) < len(self._given):
            self.forget()
        for row, rule in rules.items():
            if self._fits(row, rule.stopper):
                given, context = self._given[row], rule.stopper.context
                given[: len(context)] = context
                given[len(context) :] = 0.0
        for row, rule in rules.items():
            if self._prices[row] is not rule.price:  # seldom; the device takes it when it has drafted the first token
                self._tables[row] = torch.from_numpy(rule.price.table)
                self._least[row].copy_(self._tables[row], non_blocking=True)
                self._prices[row] = rule.price

    def _fits(self, row: int, stopper: Stopper) -> bool:
        """Whether a row's policy has the chosen model."""
        known = self._known.get(row)
        if known is None or known[0] is not stopper:
            known = stopper, self._model is not None and _same(stopper.weights, self._model)
            self._known[row] = known
        return known[1]

    def read(self, slot: int, signals: Tensor, host: Tensor) -> None:
        """Tell the host of token number `slot` of every text, and whether its policy will go on.

        Args:
            slot: from 0; of the earlier ones of the step, this has been called before.
            signals: float32 `[slots, texts, SIGNALS]`.
            host: float32 `[texts, TOLD]`, pinned.
        """
        _foresee[(len(self._kept),)](
            signals, self._weights, self._out_weights, self._bias, self._contexts, self._kept, self._least, self._state,
            slot, host, UNITS=UNITS, LONGEST=LONGEST, BINS=BINS, BINS_TILE=triton.next_power_of_2(BINS + 1),
            STATE=STATE, FIRST=slot == 0, EARLY=EARLY, num_warps=1, launch_pdl=EARLY,
        )  # fmt: skip
