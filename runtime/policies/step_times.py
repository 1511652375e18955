"""Measured step times, as the policies that weigh tokens against time and the replay need them."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract import PRECISIONS
from runtime.errors import SpeckvError
from runtime.files import read_object
from runtime.policies.policy import Outcome
from runtime.profile.store import check_profile

BACKENDS = ("eager", "graph", "compiled")
OF_DRAFTS = ("chained", "foreseen")
"""What else is measured of the fast loop's draft; see `StepTimes`."""
SPARED = "spared"
"""What is measured of its target for `spare_ms`: calls with spares, by all their tokens."""
LONGEST_MS = 1e9
"""Milliseconds of a forward, eleven days: more is no measurement."""


class StepTimes:
    """Milliseconds of one forward, linear between the measured numbers of tokens and flat outside them.

    Args:
        draft: tokens in the call → milliseconds, of the draft.
        target: tokens in the call → milliseconds, of the target.
        ahead: whether the loop begins a step's first draft forward before it knows what became of the last step, as
            the one on CUDA graphs does.
        chained: milliseconds of a draft forward that is begun before the one before it has been read, as that loop
            does where one answer asks for several; None: as any other.
        foreseen: milliseconds of a draft forward whose device also answers for the policy, by its rule; None: likewise.
        spare_ms: milliseconds that a target forward with spares (`Policy`) takes longer than another on as many tokens;
            None: the loop verifies none.
    """

    WIDEST = 64
    """Tokens of the widest call that is looked up; wider ones cost what this one does."""

    def __init__(
        self,
        draft: Mapping[int, float],
        target: Mapping[int, float],
        ahead: bool = False,
        chained: float | None = None,
        foreseen: float | None = None,
        spare_ms: float | None = None,
    ) -> None:
        self.draft, self.target, self.ahead = dict(draft), dict(target), ahead
        self.chained, self.foreseen, self.spare_ms = chained, foreseen, spare_ms
        self._draft = _interpolate(draft, self.WIDEST)
        self._target = _interpolate(target, self.WIDEST)

    def draft_ms(self, tokens: int = 1) -> float:
        """Milliseconds of one draft forward on `tokens` ≥ 1."""
        return self._draft[tokens if tokens < self.WIDEST else self.WIDEST]

    def target_ms(self, tokens: int) -> float:
        """Milliseconds of one target forward on `tokens` ≥ 1."""
        return self._target[tokens if tokens < self.WIDEST else self.WIDEST]

    def verifying_ms(self, gamma: int, spares: int = 0) -> float:
        """Milliseconds of verifying `gamma` ≥ 0 drafted tokens and as many `spares`."""
        return self.target_ms(gamma + 1 + spares) + (self.spare_ms or 0.0 if spares else 0.0)

    def drafting_ms(self, gamma: int, pending: int = 1) -> float:
        """Milliseconds of drafting `gamma` ≥ 0 tokens; see `step_ms`."""
        return self.draft_ms(pending) + (gamma - 1) * self.draft_ms() if gamma else 0.0

    def step_ms(self, gamma: int, pending: int = 1) -> float:
        """Milliseconds of a step that drafts `gamma` tokens and verifies them.

        Args:
            gamma: ≥ 0, tokens.
            pending: committed tokens that the draft has not seen: one usually, two after a step whose drafted tokens
                were all accepted. The first forward of the draft takes them.
        """
        return self.drafting_ms(gamma, pending) + self.target_ms(gamma + 1)


class RunningTimes(StepTimes):
    """Step times that follow the machine: each table times the median of the last ratios of measured to expected.

    A median, because single steps may be any times longer (another process, the prompt's first pass) without the
    machine having become slower. Over 21 steps a lasting change is in it after 11; begun with five ratios of 1, so
    that no early outlier is the median, and a start-up measurement that was wrong is put right after six steps.
    """

    MEMORY = 21
    """Steps."""
    TRUST = 5
    """Steps that the times given count for."""

    def __init__(self, times: StepTimes) -> None:
        super().__init__(times.draft, times.target, times.ahead)
        self._expected = times
        self._widest_draft, self._widest_target = max(self.draft), max(self.target)
        self._draft_ratio, self._target_ratio = (_RunningMedian([1.0] * self.TRUST, self.MEMORY) for _ in range(2))
        self.draft_scale = self.target_scale = 1.0

    def draft_ms(self, tokens: int = 1) -> float:
        """Milliseconds of one draft forward on `tokens` ≥ 1, as of late."""
        return self.draft_scale * super().draft_ms(tokens)

    def target_ms(self, tokens: int) -> float:
        """Milliseconds of one target forward on `tokens` ≥ 1, as of late."""
        return self.target_scale * super().target_ms(tokens)

    def observe(self, outcome: Outcome, pending: int = 1) -> None:
        """Learn from the measured milliseconds of a step; unknown ones (NaN) change nothing.

        Args:
            outcome: the step's.
            pending: committed tokens that the draft had not seen. Calls wider than any that was measured teach
                nothing, since the tables only guess at them.
        """
        gamma, draft_ms, verify_ms = outcome.gamma, outcome.draft_ms, outcome.verify_ms
        if gamma and pending <= self._widest_draft and draft_ms > 0:
            self.draft_scale = self._draft_ratio.add(draft_ms / self._expected.drafting_ms(gamma, pending))
        if gamma + outcome.spares < self._widest_target and verify_ms > 0:
            self.target_scale = self._target_ratio.add(verify_ms / self._expected.verifying_ms(gamma, outcome.spares))


class _RunningMedian:
    """The median of the last values: kept in order, since sorting them anew takes twice as long."""

    def __init__(self, values: Iterable[float], memory: int) -> None:
        self._last = deque(values, memory)
        self._ordered = sorted(self._last)

    def add(self, value: float) -> float:
        """Take a value, which is a number, and forget the one that is too old; return the median."""
        last, ordered = self._last, self._ordered
        if len(last) == last.maxlen:
            del ordered[bisect_left(ordered, last[0])]
        last.append(value)
        insort(ordered, value)
        half = len(ordered) // 2
        return (ordered[half] + ordered[~half]) / 2


def read_step_times(path: Path, precision: str, backend: str) -> StepTimes:
    """Read a `step_times_ms.json`: `{"draft": {"eager1": ms, …}, "fp16": {…}, …}`, keys BACKEND and tokens.

    Of the backend "graph", the draft's "chained1" and "foreseen1" and the target's "spared5", where the file has them,
    are read, too.

    Raises:
        SpeckvError: if the file cannot be read, or holds nothing for the precision or the backend.
    """
    content = _read(path)
    draft, target = (_measured(path, content, model, backend) for model in ("draft", precision))
    if backend != "graph":
        return StepTimes(draft, target)
    others = _keys(content["draft"])
    chained, foreseen = (
        _measured(path, content, "draft", kind)[1] if 1 in others.get(kind, {}) else None for kind in OF_DRAFTS
    )
    spared = _measured(path, content, precision, SPARED) if SPARED in _keys(content[precision]) else {}
    return StepTimes(draft, target, True, chained, foreseen, spare_ms(target, spared))


def spare_ms(target: Mapping[int, float], spared: Mapping[int, float]) -> float | None:
    """Return how much longer than others calls with spares take, of as many tokens; None if none were measured."""
    plain = _interpolate(target, StepTimes.WIDEST)
    longer = [max(ms - plain[min(tokens, StepTimes.WIDEST)], 0.0) for tokens, ms in spared.items()]
    return max(longer, default=None)


def read_all_step_times(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read all of a `step_times_ms.json`: model ("draft" or a precision) → backend → tokens → milliseconds.

    What `OF_DRAFTS` and `SPARED` name stands beside the backends.

    Raises:
        SpeckvError: if the file cannot be read, or holds something else than milliseconds.
    """
    content = _read(path)
    tables = {
        model: {
            backend: _measured(path, content, model, backend)
            for backend in _keys(content[model])
            if backend in (*BACKENDS, *OF_DRAFTS, SPARED)
        }
        for model in ("draft", *PRECISIONS)
        if isinstance(content.get(model), dict)
    }
    return {model: backends for model, backends in tables.items() if backends}


def _read(path: Path) -> dict[str, Any]:
    check_profile(path)
    return read_object(path, "give the step times that `runtime profile` writes")


def _keys(times: Mapping[str, object]) -> dict[str, dict[int, str]]:
    """Sort keys such as "eager17" by backend: backend → tokens → key."""
    found: dict[str, dict[int, str]] = {}
    for key in times:
        if match := re.fullmatch(r"([a-z]+)([1-9][0-9]{0,5})", key):
            found.setdefault(match[1], {})[int(match[2])] = key
    return found


def _measured(path: Path, content: Mapping[str, Any], model: str, backend: str) -> dict[int, float]:
    times = content.get(model)
    if not isinstance(times, dict):
        known = ", ".join(content) or "nothing"
        raise SpeckvError(f"{path}: no step times of '{model}' (it holds {known}): profile that precision")
    keys = _keys(times)
    if backend not in keys:
        raise SpeckvError(
            f"{path}: no {backend} step times of '{model}' (it has {', '.join(keys) or 'none'}): "
            "choose another backend or other traces"
        )
    return {tokens: _milliseconds(path, f"{model} {key}", times[key]) for tokens, key in keys[backend].items()}


def _milliseconds(path: Path, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_MS:
        found = f"{value!r:.40}" if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        raise SpeckvError(f"{path}: {name} is {found}: it must be milliseconds, above 0")
    return float(value)


def _interpolate(measured: Mapping[int, float], widest: int) -> list[float]:
    widths = sorted(measured)
    times = np.interp(np.arange(widest + 1), widths, [measured[width] for width in widths])
    return [float(milliseconds) for milliseconds in times]
