"""What a policy will answer while a step drafts, foreseen on the device: it need not wait for the host to ask.

A policy with a `Rule` drafts on while S · (probability of the next token) > least, both from the acceptance model. The
device does that arithmetic where it has the signals, behind every draft forward, and tells the host the answer together
with the token. The policy is asked all the same, while the device goes on as foreseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.launch import EARLY, let_next_start, wait_for_last
from runtime.policies.price import BINS, LONGEST
from runtime.stopper import history, progress

if TYPE_CHECKING:
    from runtime.policies.adaptive import Rule
    from runtime.policies.price import Price
    from runtime.stopper.stopper import Stopper

UNITS = 64
"""Hidden units of the acceptance model, at most."""
FEATURES = 16
"""Rows of its weights, at least as many as there are features."""
MOST_LOGIT, LEAST_FACTOR = tl.constexpr(history.MOST_LOGIT), tl.constexpr(progress.LEAST_FACTOR)
LEAST_LOG, MOST_LEAD = tl.constexpr(progress.LEAST_LOG), tl.constexpr(progress.MOST_LEAD)


@triton.jit
def _logit(p):
    inside = (p > 1e-4) & (p < 1 - 1e-4)
    return tl.where(inside, tl.log(p / (1 - p)), tl.where(p > 0.5, MOST_LOGIT, -MOST_LOGIT))


@triton.jit
def _features(signals, slot, row, texts, FEATURES: tl.constexpr, SLOTS: tl.constexpr):
    """Return the features of `Progress` after the tokens up to `slot`, in their order."""
    at = tl.arange(0, SLOTS)
    used, last = at <= slot, at == slot
    own = signals + (at * texts + row) * 5
    entropy = tl.load(own, mask=used, other=0.0)
    top1 = tl.load(own + 1, mask=used, other=0.5)
    top2 = tl.load(own + 2, mask=used, other=0.5)
    logit = _logit(top1)
    newest = tl.sum(tl.where(last, logit, 0.0), 0)
    change = tl.where(slot > 0, newest - tl.sum(tl.where(at == slot - 1, logit, 0.0), 0), 0.0)
    factors = tl.where(top1 > 1e-3, tl.log(tl.maximum(top1, 1e-3)), LEAST_FACTOR)
    product = tl.maximum(tl.sum(tl.where(used, factors, 0.0), 0), LEAST_LOG)  # no factor adds: cut off once, as always
    leads = tl.minimum(tl.log(tl.maximum(top1, 1e-4) / tl.maximum(top2, 1e-4)), MOST_LEAD)
    feature = tl.arange(0, FEATURES)
    found = tl.where(feature == 1, tl.log(slot + 2.0), 0.0)
    found += tl.where(feature == 2, newest, 0.0)
    found += tl.where(feature == 3, change, 0.0)
    found += tl.where(feature == 4, tl.min(tl.where(used, logit, float("inf")), 0), 0.0)
    found += tl.where(feature == 5, product, 0.0)
    found += tl.where(feature == 6, tl.sum(tl.where(last, leads, 0.0), 0), 0.0)
    found += tl.where(feature == 7, tl.sum(tl.where(last, top2, 0.0), 0), 0.0)
    found += tl.where(feature == 8, tl.sum(tl.where(last, entropy, 0.0), 0), 0.0)
    found += tl.where(feature == 9, tl.sum(entropy, 0) / (slot + 1.0), 0.0)
    return found + tl.where(feature == 10, tl.maximum(tl.max(entropy, 0), 0.0), 0.0)


@triton.jit
def _foresee(
    signals, weights, out_weights, bias, context, least, survival, slot, host,
    FEATURES: tl.constexpr, UNITS: tl.constexpr, SLOTS: tl.constexpr, LONGEST: tl.constexpr, BINS: tl.constexpr,
    BINS_TILE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Answer for one text after the token number `slot`, and tell the host."""
    let_next_start(EARLY)
    row, texts = tl.program_id(0), tl.num_programs(0)
    units, feature, bins = tl.arange(0, UNITS), tl.arange(0, FEATURES), tl.arange(0, BINS_TILE)
    W = tl.load(weights + feature[:, None] * UNITS + units[None, :])
    W_accepted, W_following = tl.load(out_weights + units), tl.load(out_weights + UNITS + units)
    b_accepted, b_following = tl.load(bias), tl.load(bias + 1)
    # On the host, which takes long; no kernel writes it. The rest is looked at only where the rule is there.
    own = context + row * (UNITS + 1)
    ruled = tl.load(own, volatile=True) > 0
    step = tl.load(own + 1 + units, mask=units < tl.where(ruled, UNITS, 0), other=0.0, volatile=True)
    next_row = tl.minimum(slot + 1, LONGEST - 1)
    needed = least + (row * LONGEST + next_row) * (BINS + 1) + bins
    needed = tl.load(needed, mask=bins < tl.where(ruled, BINS + 1, 0), other=0.0, volatile=True)
    wait_for_last(EARLY)
    found = _features(signals, slot, row, texts, FEATURES, SLOTS)
    hidden = tl.maximum(tl.sum(W * found[:, None], 0) + step, 0.0)
    accepted = tl.sigmoid(tl.sum(W_accepted * hidden, 0) + b_accepted)
    following = tl.sigmoid(tl.sum(W_following * hidden, 0) + b_following)
    before = tl.load(survival + (slot - 1) * texts + row, mask=slot > 0, other=1.0)
    stand = tl.where(ruled, before * accepted, float("nan"))  # NaN from then on: a step is foreseen whole or not
    tl.store(survival + slot * texts + row, stand)
    threshold = tl.sum(tl.where(bins == (following * BINS).to(tl.int32), needed, 0.0), 0)
    known = (stand == stand) & (slot + 1 < LONGEST)
    answer = tl.where(stand * following > threshold, 1.0, 0.0)
    told = host + row * 5
    latest = signals + (slot * texts + row) * 5
    at = tl.arange(0, 4)
    tl.store(told + at, tl.load(latest + at))
    tl.store(told + 4, tl.where(known, answer, float("nan")))


class Foresight:
    """The rules of the step under way, for every text of a pair.

    Args:
        slots: tokens drafted in a step at most.
        texts: of the pair.
        device: of the pair.
    """

    def __init__(self, slots: int, texts: int, device: torch.device) -> None:
        self._slots, self._texts = slots, texts
        self._weights = torch.zeros(FEATURES, UNITS, device=device)
        self._out_weights = torch.zeros(2, UNITS, device=device)
        self._bias = torch.zeros(2, device=device)
        self._survival = torch.zeros(slots, texts, device=device)
        pinned = device.type == "cuda"
        self._context = torch.zeros(texts, 1 + UNITS, pin_memory=pinned)  # the first says whether there is a rule
        self._least = torch.zeros(texts, LONGEST, BINS + 1, pin_memory=pinned)
        self._contexts, self._leasts = self._context.numpy(), self._least.numpy()
        self._prices: list[Price | None] = [None] * texts
        self._folder: Path | None = None

    def choose(self, stopper: Stopper) -> bool:
        """Foresee with this acceptance model from now on, all texts whose policies have the same; return False if it
        is too large."""
        W_drafted, W2, b2 = stopper.weights
        if W2.shape[1] > UNITS:
            return False
        if stopper.folder != self._folder:
            for to, values in ((self._weights, W_drafted), (self._out_weights, W2)):
                to[: values.shape[0], : values.shape[1]].zero_().copy_(torch.from_numpy(values))
            self._bias.copy_(torch.from_numpy(b2))
            self._folder = stopper.folder
        return True

    def forget(self) -> None:
        """Foresee nothing until the rules of a step are given."""
        self._contexts[:, 0] = 0

    def give(self, rules: Mapping[int, Rule]) -> None:
        """Set the rules of the step under way, row → rule; a draft forward may be under way, too."""
        for row, (stopper, price) in rules.items():
            if stopper.folder != self._folder:
                continue
            if self._prices[row] is not price:
                self._leasts[row], self._prices[row] = price.table, price
            context = stopper.context
            self._contexts[row, 1 : 1 + len(context)] = context
            self._contexts[row, 0] = 1  # last: what the device finds behind it is whole

    def read(self, slot: int, signals: Tensor, host: Tensor) -> None:
        """Tell the host of token number `slot` of every text, and whether its policy will go on.

        Args:
            slot: from 0.
            signals: float32 `[slots, texts, SIGNALS]`, those of this and earlier tokens.
            host: float32 `[texts, TOLD]`, pinned.
        """
        _foresee[(self._texts,)](
            signals, self._weights, self._out_weights, self._bias, self._context, self._least, self._survival, slot,
            host, FEATURES=FEATURES, UNITS=UNITS, SLOTS=triton.next_power_of_2(self._slots), LONGEST=LONGEST, BINS=BINS,
            BINS_TILE=triton.next_power_of_2(BINS + 1), EARLY=EARLY, num_warps=1, launch_pdl=EARLY,
        )  # fmt: skip
