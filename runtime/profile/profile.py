"""Profiling a pair: for each precision, trace every prompt; then records, traces and step times from the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from runtime.contract import compression_of
from runtime.loop.backend import choose_backend
from runtime.loop.sampling import Sampling
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.profile.records import Row, step_records, to_csv
from runtime.profile.step_times import (
    BATCH_REPEATS,
    BATCH_WIDTHS,
    CONTEXT,
    DRAFT_WIDTHS,
    GRAPH_WIDTHS,
    TARGET_WIDTHS,
    measure_graph_times,
    measure_step_times,
)
from runtime.profile.store import RECORDS, STEP_TIMES, Store, digest, npz
from runtime.profile.trace import greedy_outputs, trace
from runtime.prompts import Prompt

PROMPTS_PER_PART = 16
"""Prompts decoded in one batch and finished together. Fixed, so that no batch depends on the number of workers."""
KINDS = {"rollouts": "", "verified": "_verified", "tokens": "_tokens", "seconds": "_seconds"}
"""Fields of `Trace`, and what their files' names end in."""


@dataclass(frozen=True)
class Plan:
    """What to profile."""

    draft: str | None
    target: str | None
    precisions: tuple[str, ...]
    gammas: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    device: str
    output: Path

    @property
    def parts(self) -> list[tuple[Prompt, ...]]:
        """The prompts in the batches that are finished together."""
        return [self.prompts[i : i + PROMPTS_PER_PART] for i in range(0, len(self.prompts), PROMPTS_PER_PART)]


def profile(
    plan: Plan, progress: Callable[[str, int, int], None], announce: Callable[[str, str], None] = lambda *_: None
) -> None:
    """Profile into `plan.output`, continuing what is there. Several processes of one host share the parts.

    Args:
        plan: what to profile.
        progress: told (precision, prompts done by this process, prompts of this process).
        announce: told (precision, what begins before the prompts).

    Raises:
        SpeckvError: if the output folder cannot be continued, or a model cannot be loaded.
    """
    workers = accelerate.PartialState(cpu=plan.device == "cpu")
    store = Store(plan.output)
    for precision in plan.precisions:
        announce(precision, "loading the models")
        target = load_target(plan.target, precision, _own_device(plan, workers))
        draft = load_draft(plan.draft, target)
        if workers.is_main_process:
            store.begin(_settings(plan, draft, target))
            _measure_times(store, draft, target, announce)
        workers.wait_for_everyone()
        _trace_parts(plan, store, draft, target, workers, progress)
        workers.wait_for_everyone()
        del draft, target  # before the next precision is loaded
    if workers.is_main_process:
        _merge(plan, store)
    workers.wait_for_everyone()


def _trace_parts(
    plan: Plan,
    store: Store,
    draft: PreTrainedModel,
    target: Target,
    workers: accelerate.PartialState,
    progress: Callable[[str, int, int], None],
) -> None:
    own = range(workers.process_index, len(plan.parts), workers.num_processes)
    total, done = sum(len(plan.parts[number]) for number in own), 0
    for number in own:
        progress(target.precision, done, total)
        part = plan.parts[number]
        if not store.part(target.precision, number).exists():
            with _repeatable(plan.device):
                store.write_part(target.precision, number, _traced(part, draft, target, plan.max_new_tokens))
        done += len(part)
    progress(target.precision, done, total)


def _traced(
    part: tuple[Prompt, ...], draft: PreTrainedModel, target: Target, max_new_tokens: int
) -> dict[str, NDArray[Any]]:
    """Return a part's arrays, named INDEX_TASK.KIND."""
    encoded = [target.encode(prompt.text) for prompt in part]
    outputs = greedy_outputs(target.model, encoded, max_new_tokens, target.eos)
    arrays = {}
    for prompt, ids, output in zip(part, encoded, outputs, strict=True):
        traced = trace(draft, target.model, ids, output)
        for kind in KINDS:
            arrays[f"{prompt.index}_{prompt.task}.{kind}"] = getattr(traced, kind)
    return arrays


def _repeatable(device: str) -> AbstractContextManager[None]:
    """Let attention be computed in one way: of a GPU's faster ways some differ in the last bits from run to run.

    Seen on an H200 with prompts of 200 tokens and more, where two runs wrote other probabilities, and one another text.
    """
    return nullcontext() if device == "cpu" else sdpa_kernel(SDPBackend.MATH)


def _measure_times(store: Store, draft: PreTrainedModel, target: Target, announce: Callable[[str, str], None]) -> None:
    """Measure what the folder lacks: eager forwards, and the fast loop's calls where the pair has one here."""
    times = store.read_json(STEP_TIMES) if (store.folder / STEP_TIMES).exists() else {}
    announce(target.precision, "step times")
    if "draft" not in times:
        times["draft"] = measure_step_times(draft, DRAFT_WIDTHS)
    if target.precision not in times:
        narrow = measure_step_times(target.model, TARGET_WIDTHS)
        times[target.precision] = narrow | measure_step_times(target.model, BATCH_WIDTHS, BATCH_REPEATS)
    store.write_json(STEP_TIMES, times)
    if "graph1" not in times[target.precision]:
        announce(target.precision, "preparing the fast loop; kernels are compiled the first time")
        backend = choose_backend(draft, target.model, CONTEXT + max(GRAPH_WIDTHS), Sampling())
        announce(target.precision, f"step times of the loop ({backend.why})")
        if backend.graphs:
            of_draft, of_target = measure_graph_times(backend.graphs)
            times["draft"] = of_draft | times["draft"]
            times[target.precision] |= of_target
            store.write_json(STEP_TIMES, times)


def _merge(plan: Plan, store: Store) -> None:
    """Write the final files from the parts: `PRECISION.npz` and those of the other `KINDS`, and `records.csv`."""
    rows: list[Row] = []
    for precision in plan.precisions:
        arrays = dict(store.read_parts(precision, len(plan.parts)))
        for kind, ending in KINDS.items():
            keyed = {key.removesuffix(f".{kind}"): a for key, a in arrays.items() if key.endswith(f".{kind}")}
            store.write(f"{precision}{ending}.npz", npz(keyed))
            if kind == "rollouts":
                rows += (row for gamma in plan.gammas for row in _rows(keyed, compression_of(precision), gamma))
    store.write(RECORDS, to_csv(rows).encode())


def _rows(traces: dict[str, NDArray[np.float16]], compression: str, gamma: int) -> Iterator[Row]:
    for key, rollouts in traces.items():
        yield from step_records(rollouts, compression, key.partition("_")[2], gamma)


def _settings(plan: Plan, draft: PreTrainedModel, target: Target) -> dict[str, object]:
    """What two runs must share to be continued; written as the manifest."""
    return {
        "target": target.name,
        "target_revision": getattr(target.model.config, "_commit_hash", None),
        "draft": plan.draft or "default",
        "draft_revision": getattr(draft.config, "_commit_hash", None),
        "precisions": list(plan.precisions),
        "gammas": list(plan.gammas),
        "prompts": len(plan.prompts),
        "prompts_sha256": digest(f"{prompt.task}\n{prompt.text}" for prompt in plan.prompts),
        "max_new_tokens": plan.max_new_tokens,
        "seed": None,  # greedy decoding draws nothing
        "device": torch.cuda.get_device_name() if plan.device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _own_device(plan: Plan, workers: accelerate.PartialState) -> str:
    return f"cuda:{workers.local_process_index}" if plan.device == "cuda" else "cpu"
