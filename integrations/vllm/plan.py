"""From a profile to the engine's own settings: replayed acceptance over the cost of the engine's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from integrations.vllm.controller import Controller
from integrations.vllm.times import EngineTimes
from runtime.contract import PRECISIONS
from runtime.errors import SpeckvError
from runtime.files import check_format, read_object
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome
from runtime.policies.step_times import read_step_times
from runtime.profile.store import FORMAT_VERSION, MANIFEST, STEP_TIMES
from runtime.replay.replay import Run, replay
from runtime.replay.traces import LOOKAHEAD, read_traces

SCHEDULER = "integrations.vllm.scheduler.controlled_scheduler"
LARGEST_BATCH = 256
"""Requests of the last batch size in the table; beyond it the engine goes on with the last entry."""
ROOM = 2
"""How far above the table's longest entry the controller may go: on the project's pair nothing is gained beyond."""


@dataclass(frozen=True)
class Entry:
    """The best length for some batch sizes."""

    first: int
    last: int
    """Requests, inclusive."""
    length: int
    """Tokens drafted a request and step."""
    tokens_per_step: float
    """Committed tokens a request and step, from the replay."""
    least: float
    most: float
    """Tokens per second over those of the engine without a draft model, the lowest and highest of the batch sizes."""
    last_faster: int
    """The largest of the batch sizes that is faster with the draft model than without; 0 where none is."""


@dataclass(frozen=True)
class Plan:
    """Settings for one pair in one precision, with the figures behind them."""

    draft: str
    target: str
    precision: str
    texts: int
    tokens: int
    acceptance: float
    """Probability that a drafted token stands where those before it did, under the length for one request."""
    table: list[Entry]
    controlled_tokens_per_step: float
    """Of one request at a time under the project's controller instead of the table."""
    controlled_ratio: float
    times: EngineTimes

    @property
    def last_faster(self) -> int:
        """Requests of the largest batch that is faster with the draft model than without; 0 where none is."""
        return max(entry.last_faster for entry in self.table)

    @property
    def longest(self) -> int:
        """Tokens drafted at most; 0 where a draft model makes no batch size faster."""
        return _room(self.table) if self.last_faster else 0

    def speculative_config(self) -> dict[str, Any] | None:
        """Return what `--speculative-config` takes; None where no length pays."""
        if not self.longest:
            return None
        return {
            "method": "draft_model",
            "model": self.draft,
            "num_speculative_tokens": self.longest,
            "num_speculative_tokens_per_batch_size": [[e.first, e.last, e.length] for e in self.table],
        }

    def additional_config(self) -> dict[str, Any]:
        """Return what `--additional-config` takes for the project's scheduler."""
        settings = {"draft_ms": self.times.draft_ms, "target_ms": self.times.measured, "acceptance": self.acceptance}
        return {"speckv": settings}


class OneRequest:
    """The controller as a policy for one request alone, so that the replay can run it."""

    name = "controller"

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def begin(self) -> None:
        """Start a new request."""
        self.controller.forget([self.name])

    def gamma(self, drafted: Drafted) -> int:
        """Return the length that the controller chose at the step's beginning."""
        if not drafted.count:
            self.length = self.controller.length([self.name])
        return self.length

    def observe(self, outcome: Outcome) -> None:
        """Pass the outcome on."""
        if outcome.gamma:
            self.controller.observe(self.name, outcome.gamma, outcome.accepted)


def make_plan(
    folder: Path,
    precision: str | None = None,
    draft: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Plan:
    """Return the plan for a folder that `python -m runtime profile` wrote.

    Args:
        folder: the profile.
        precision: one of the profile's; None where it has only one.
        draft: the folder or Hub id of the draft that the engine is to load; by default the profile's own.
        progress: told (replays done, replays).

    Raises:
        SpeckvError: if the profile lacks something, or its draft is no model that the engine could load.
    """
    manifest = read_manifest(folder)
    precision = choose_precision(folder, manifest, precision)
    times = read_step_times(folder / STEP_TIMES, precision, "eager")
    texts = read_traces(folder / f"{precision}.npz")
    cost = EngineTimes.of(times)
    replays = LOOKAHEAD + 2
    fixed = []
    for length in range(LOOKAHEAD + 1):
        progress(length, replays)
        fixed.append(replay(texts, Fixed(length), times))
    table = _table([tokens_per_step(runs) for runs in fixed], cost)
    rate = _acceptance(fixed[table[0].length or 1])
    controller = Controller(cost, _room(table), rate)
    controlled = replay(texts, OneRequest(controller), times)
    progress(replays, replays)
    return Plan(
        draft=draft or _loadable(folder, manifest["draft"]),
        target=str(manifest["target"]),
        precision=precision,
        texts=len(texts),
        tokens=sum(text.positions for text in texts),
        acceptance=round(rate, 4),
        table=table,
        controlled_tokens_per_step=tokens_per_step(controlled),
        controlled_ratio=_ratio(controlled, cost),
        times=cost,
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the profile's manifest.

    Raises:
        SpeckvError: if the folder holds no profile.
    """
    manifest = read_object(folder / MANIFEST, "give the folder of a profile, `python -m runtime profile` makes one")
    check_format(folder / MANIFEST, manifest.get("format_version", 1), FORMAT_VERSION)
    # They become words of a command line, and the precision a file's name.
    pair, precisions = (manifest.get("draft"), manifest.get("target")), manifest.get("precisions")
    named = all(isinstance(name, str) and name.isprintable() and name and name[0] != "-" for name in pair)
    if named and isinstance(precisions, list) and precisions and all(name in PRECISIONS for name in precisions):
        return manifest
    raise SpeckvError(f"{folder / MANIFEST} names no pair: profile again with `python -m runtime profile`")


def choose_precision(folder: Path, manifest: dict[str, Any], precision: str | None) -> str:
    """Return the precision to plan for.

    Raises:
        SpeckvError: if the profile has several and none was named, or not the named one.
    """
    known = manifest["precisions"]
    if precision is None and len(known) == 1:
        return str(known[0])
    if precision not in known:
        fault = "holds several precisions" if precision is None else f"holds no {precision}"
        raise SpeckvError(f"profile {folder} {fault}: give --precision one of {', '.join(known)}")
    return str(precision)


def tokens_per_step(runs: Sequence[Run]) -> float:
    """Return the committed tokens per step over all runs."""
    return sum(run.tokens for run in runs) / sum(len(run.steps) for run in runs)


def _loadable(folder: Path, draft: str) -> str:
    """Return the profile's draft where the engine can load it: a model, not one that borrows from its target."""
    if draft == "default" or draft.partition(":")[0] == "early-exit" or (Path(draft) / "drafter.safetensors").is_file():
        raise SpeckvError(
            f"profile {folder} was made with the draft '{draft}', which lives on its target's parts: write it out with "
            "`python -m integrations.vllm export-draft --output DIR` and give --draft DIR"
        )
    return draft


def _table(tokens: Sequence[float], cost: EngineTimes) -> list[Entry]:
    """Return the best length by batch size.

    Args:
        tokens: committed tokens a step by length, from 0.
        cost: what the engine's steps cost.
    """
    best = [_best(tokens, cost, batch) for batch in range(1, LARGEST_BATCH + 1)]
    table = []
    for length, group in groupby(enumerate(best, start=1), key=lambda numbered: numbered[1]):
        batches = [batch for batch, _ in group]
        ratios = [tokens[length] / cost.step(batch, length) * cost.plain(batch) for batch in batches]
        faster = [batch for batch, ratio in zip(batches, ratios, strict=True) if ratio > 1]
        last_faster = max(faster, default=0)
        table.append(Entry(batches[0], batches[-1], length, tokens[length], min(ratios), max(ratios), last_faster))
    return table


def _best(tokens: Sequence[float], cost: EngineTimes, batch: int) -> int:
    """Return the length of the highest rate among those whose verification is no wider than what was measured."""
    lengths = [length for length in range(len(tokens)) if not length or batch * (length + 1) <= cost.widest]
    return max(lengths, key=lambda length: tokens[length] / cost.step(batch, length))


def _room(table: Sequence[Entry]) -> int:
    """Return the tokens that the controller may draft, ≥ 1."""
    return min(ROOM * max(entry.length for entry in table), LOOKAHEAD) or 1


def _acceptance(runs: Sequence[Run]) -> float:
    """Return accepted over verified drafted tokens: those behind the first rejected one are not judged."""
    steps = [step for run in runs for step in run.steps]
    accepted = sum(step.accepted for step in steps)
    return accepted / max(accepted + sum(step.accepted < step.gamma for step in steps), 1)


def _ratio(runs: Sequence[Run], cost: EngineTimes) -> float:
    """Return the tokens per second of single requests over those of the engine without a draft model."""
    milliseconds = sum(cost.step(1, step.gamma) for run in runs for step in run.steps)
    return sum(run.tokens for run in runs) * cost.plain(1) / milliseconds
