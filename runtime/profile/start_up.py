"""A pair's step times when a program starts: measured in under two seconds, once for each pair and machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import PreTrainedModel

from runtime.errors import SpeckvError
from runtime.machine import device_name
from runtime.notice import warn_once
from runtime.pair.embedded import cache_folder
from runtime.pair.target import Target
from runtime.policies.fallback import Fallback
from runtime.policies.guarded import described
from runtime.policies.policy import Policy
from runtime.policies.registry import make_policy
from runtime.policies.step_times import SPARED, StepTimes, read_step_times, spare_ms
from runtime.profile.step_times import SPARED_WIDTH, Timed, TimedModel
from runtime.profile.store import Store, digest

if TYPE_CHECKING:
    from runtime.cuda.pair import GraphPair

SECONDS = 1.3
"""For all forwards but the two that fill the caches. Those are a process's first, which any text would pay for."""
CONTEXT = 64
"""Tokens in the caches: on a CPU, filling them with the 300 of a profile alone would take a second."""
CALLS = (
    *(("draft", 1), ("draft", 2), ("target", 1), ("target", 9)),
    *(("target", 5), ("target", 17), ("target", 3), ("target", 2)),
)
"""Model and tokens of the calls to time, what a policy needs most first."""
GRAPH_CALLS = (*CALLS, ("target", 8), ("target", 16))
"""Likewise of graphs; see `GRAPH_WIDTHS`."""
SPARED_CALL = (SPARED, SPARED_WIDTH)
"""Likewise of those that verify spares."""
GRAPH_WARM_UP = 0.3
"""Seconds of calls before those that count: a GPU takes some tenths to reach its speed, and not all calls alike."""
NEEDED = 4
"""Calls that are timed on the slowest machine, too."""
ROUNDS = 15
"""At most, after the one that warms up."""
CHECKS = 3
"""Calls of each model that kept times are compared with."""
TOLERANCE = 1.5
"""Ratio up to which kept times hold. Clocks alone make a fifth."""

_checked: set[Path] = set()
"""Files of times that this process has measured or compared: once is enough, for a text may be short."""


def start_up_times(
    draft_name: str | None,
    draft: PreTrainedModel,
    target: Target,
    announce: Callable[[], None],
    graphs: GraphPair | None = None,
) -> StepTimes:
    """Return the pair's step times on this machine: kept ones, or measured now and kept in the cache folder.

    Kept times that cannot be read are measured anew, and so are those that no longer hold when a process first asks for
    them: the machine may have been busy with other work, then or now. Where nothing can be written, nothing is kept.

    Args:
        draft_name: what `load_draft` was given.
        draft: the loaded draft.
        target: the loaded target.
        announce: called before measuring.
        graphs: measure these instead of the eager models, with all their rows at work, as they choose tokens now.
    """
    backend = "graph" if graphs else "eager"
    key = {**_key(draft_name, draft, target, backend), "rows": graphs.texts if graphs else 1}
    if graphs:
        key |= {"warm_up": GRAPH_WARM_UP, "spares": SPARED_WIDTH}
    if graphs and not graphs.sampling.greedy:  # whose graphs draw, and sort the tokens for top-k and top-p
        key["draws"] = [bool(graphs.sampling.top_k), graphs.sampling.top_p < 1]
    path = _kept(key)
    if path:
        with contextlib.suppress(SpeckvError):
            times = read_step_times(path, target.precision, backend)
            if path in _checked or _still_hold(times, lambda: _timed(draft, target.model, graphs)):
                _checked.add(path)
                return times
    announce()
    times = measure(draft, target.model, graphs)
    if path:
        _checked.add(path)
        tables = {name: _named(backend, ms) for name, ms in (("draft", times.draft), (target.precision, times.target))}
        if times.spare_ms is not None:
            tables[target.precision][f"{SPARED}{SPARED_WIDTH}"] = times.target_ms(SPARED_WIDTH) + times.spare_ms
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            Store(path.parent).write_json(path.name, {"key": key, **tables})
    return times


def timed_policies(
    name: str,
    rows: int,
    draft_name: str | None,
    draft: PreTrainedModel,
    target: Target,
    announce: Callable[[], None],
    graphs: GraphPair | None = None,
) -> list[Policy]:
    """Build a policy that weighs time for each of `rows`; where the pair's times cannot be measured, the fallback.

    Args:
        name: one of `TIMED`.
        rows: how many.
        draft_name: this and all others as in `start_up_times`.
        draft: likewise.
        target: likewise.
        announce: likewise.
        graphs: likewise.

    Raises:
        SpeckvError: as `make_policy` does.
    """
    try:
        times = start_up_times(draft_name, draft, target, announce, graphs)
    except Exception as error:  # a model's own; a draft that fails costs no text
        warn_once(f"step times cannot be measured ({described(error)}): {Fallback.LENGTH} tokens are drafted a step")
        return [Fallback() for _ in range(rows)]
    return [make_policy(name, target.compression, times) for _ in range(rows)]


def measure(draft: PreTrainedModel, target: PreTrainedModel, graphs: GraphPair | None = None) -> StepTimes:
    """Measure median milliseconds of eager forwards, or of a pair's graphs; see `measure_calls`."""
    models = _timed(draft, target, graphs)
    if not graphs:
        return measure_calls(models)
    calls = [*GRAPH_CALLS, *([SPARED_CALL] if SPARED in models else [])]
    times = measure_calls(models, calls=calls, warm_up=GRAPH_WARM_UP)
    return StepTimes(times.draft, times.target, ahead=True, spare_ms=times.spare_ms)


def _timed(draft: PreTrainedModel, target: PreTrainedModel, graphs: GraphPair | None) -> dict[str, Timed]:
    if graphs is None:
        return {"draft": TimedModel(draft, CONTEXT), "target": TimedModel(target, CONTEXT)}
    from runtime.cuda.times import TimedDraft, TimedSpares, TimedTarget

    prompt = [0] * min(CONTEXT, graphs.capacity - 1)
    graphs.begin(dict.fromkeys(range(graphs.texts), prompt))
    models: dict[str, Timed] = {"draft": TimedDraft(graphs), "target": TimedTarget(graphs)}
    if graphs.texts == 1 and graphs.sampling.greedy:  # else the loop takes none
        models[SPARED] = TimedSpares(graphs)
    return models


def _still_hold(times: StepTimes, models: Callable[[], Mapping[str, Timed]]) -> bool:
    """Return whether the models take about as long as `times` say; where finding out would take long, they do."""
    expected = {"draft": times.draft_ms(), "target": times.target_ms(1)}
    if (CHECKS + 1) * sum(expected.values()) > SECONDS * 1e3:
        return True
    timed = models()
    for model, milliseconds in expected.items():
        timed[model].forward_ms(1)  # warms up
        ratio = median(timed[model].forward_ms(1) for _ in range(CHECKS)) / milliseconds
        if not 1 / TOLERANCE < ratio < TOLERANCE:
            return False
    return True


def measure_calls(
    models: Mapping[str, Timed],
    seconds: float = SECONDS,
    calls: Sequence[tuple[str, int]] = CALLS,
    warm_up: float = 0.0,
) -> StepTimes:
    """Measure median milliseconds of `calls`, within `seconds` where that is enough for the needed ones.

    A slow machine gets fewer widths, in the order of `calls`: as many as warm up in a quarter of the time. Then
    `warm_up` of the seconds pass before the first that count.
    """
    clock = time.perf_counter
    begun = clock()
    samples: dict[tuple[str, int], list[float]] = {}
    for model, tokens in calls:
        if len(samples) < NEEDED or clock() < begun + seconds / 4:
            samples[model, tokens] = [models[model].forward_ms(tokens)]
    lasted = clock() - begun
    while clock() + lasted < begun + warm_up:
        round_begun = clock()
        for model, tokens in samples:
            models[model].forward_ms(tokens)
        lasted = clock() - round_begun
    for _ in range(ROUNDS):
        round_begun = clock()
        if round_begun + lasted > begun + seconds:
            break
        for (model, tokens), taken in samples.items():
            taken.append(models[model].forward_ms(tokens))
        lasted = clock() - round_begun
    # The first of each warmed up: it counts only where there was no time for another.
    medians = {call: round(median(taken[1:] or taken), 4) for call, taken in samples.items()}
    draft, target, spared = (
        {q: ms for (model, q), ms in sorted(medians.items()) if model == name} for name in ("draft", "target", SPARED)
    )
    return StepTimes(draft, target, spare_ms=spare_ms(target, spared))


def _named(backend: str, milliseconds: Mapping[int, float]) -> dict[str, float]:
    return {f"{backend}{tokens}": ms for tokens, ms in milliseconds.items()}


def _kept(key: Mapping[str, object]) -> Path | None:
    """Return the file that keeps the times of a key; None without a home folder to keep it in."""
    try:
        return cache_folder() / "step-times" / f"{digest(f'{name} {value}' for name, value in key.items())[:16]}.json"
    except RuntimeError:
        return None


def _key(draft_name: str | None, draft: PreTrainedModel, target: Target, backend: str) -> dict[str, object]:
    """Return what the times depend on."""
    return {
        "draft": _absolute(draft_name or "default"),
        "target": _absolute(target.name),
        # The default draft, and what lies in a folder, may change.
        "layers": [model.config.get_text_config().num_hidden_layers for model in (draft, target.model)],
        "precision": target.precision,
        "device": _device(target.model),
        "backend": backend,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _device(model: PreTrainedModel) -> str:
    device = str(model.get_input_embeddings().weight.device)
    if device == "cpu":
        return f"{device_name(device)}, {torch.get_num_threads()} threads"
    spread = len(set(getattr(model, "hf_device_map", {}).values()))
    return f"{spread or 1} x {device_name(device)}"
