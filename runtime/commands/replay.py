"""`python -m runtime replay`: what policies would have cost on traced outputs, exactly."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command
from runtime.contract import PRECISIONS, compression_of
from runtime.errors import SpeckvError
from runtime.policies.registry import NAMES, THRESHOLD, TIMED, make_policy
from runtime.policies.step_times import BACKENDS, StepTimes, read_step_times

if TYPE_CHECKING:
    from runtime.policies.policy import Policy
    from runtime.replay.comparison import Comparison
    from runtime.replay.traces import Text

DEFAULT_POLICIES = ("none", "fixed:4", "speckv", *THRESHOLD, "heuristic", "moving-average", *TIMED, "oracle")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `replay` command."""
    parser = add_command(
        subparsers,
        "replay",
        run,
        "Replay policies exactly over traced greedy outputs and compare their tokens per second.",
        "python -m runtime replay --traces profiles/mine/fp16.npz --step-times profiles/mine/step_times_ms.json",
    )
    parser.add_argument("--traces", type=Path, nargs="+", required=True, metavar="NPZ")
    parser.add_argument("--step-times", type=Path, required=True, metavar="JSON", help="step_times_ms.json")
    parser.add_argument("--backend", choices=BACKENDS, default="eager", help="whose step times (default: eager)")
    parser.add_argument(
        "--policies", nargs="+", default=DEFAULT_POLICIES, metavar="POLICY", help=f"{NAMES}, oracle (default: each)"
    )
    parser.add_argument(
        "--compression", choices=PRECISIONS, help="precision of the target (default: from each file's name)"
    )


def run(options: argparse.Namespace) -> int:
    """Replay every file and print one table each."""
    from runtime.replay.comparison import compare
    from runtime.replay.traces import LOOKAHEAD, read_traces

    names = list(dict.fromkeys(options.policies))
    jobs = []
    for path in options.traces:
        precision = options.compression or _precision(path)
        times = read_step_times(options.step_times, precision, options.backend)
        texts = read_traces(path)
        jobs.append((path, precision, times, texts, _policies(names, precision, times, texts)))
    replays = sum(len(texts) * (LOOKAHEAD + 1 + len(policies)) for *_, texts, policies in jobs)
    with _progress(replays) as advance:
        results = [
            (path, precision, compare(texts, policies, times, advance))
            for path, precision, times, texts, policies in jobs
        ]
    if options.json:
        print(json.dumps([_as_json(*result, options.backend) for result in results]))
    else:
        for result in results:
            _print_tables(*result, options.backend)
    return 0


def _precision(path: Path) -> str:
    found = set(re.split(r"[^a-z0-9]+", path.stem.lower())) & set(PRECISIONS)
    if len(found) != 1:
        raise SpeckvError(f"{path}: the name does not say one precision of {', '.join(PRECISIONS)}: give --compression")
    return found.pop()


def _policies(names: Sequence[str], precision: str, times: StepTimes, texts: Sequence[Text]) -> list[Policy]:
    from runtime.replay.oracle import Oracle

    compression = compression_of(precision)
    return [Oracle(texts) if name == "oracle" else make_policy(name, compression, times) for name in names]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda: bar.advance(task)


def _as_json(path: Path, precision: str, comparison: Comparison, backend: str) -> dict[str, object]:
    return {"traces": str(path), "compression": precision, "backend": backend, **dataclasses.asdict(comparison)}


def _print_tables(path: Path, precision: str, comparison: Comparison, backend: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    best = comparison.best_fixed
    title = f"{path.name}: {precision} target, {backend} step times; ratio to the best fixed gamma in hindsight"
    caption = "best fixed gamma: " + ", ".join(f"{task} {best[task]}" for task in best)
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits 80 columns
    tasks = list(best)
    table.add_column("policy", no_wrap=True)
    for column in ("tok/s", *tasks, "tokens per step", "mean gamma", "policy's time"):
        table.add_column(column, justify="right")
    for name, scores in comparison.scores.items():
        overall = scores[tasks[0]]
        table.add_row(
            name,
            f"{overall.tokens_per_second:.1f}",
            *(f"{scores[task].ratio:.3f}" for task in tasks),
            f"{overall.tokens_per_step:.2f}",
            f"{overall.mean_gamma:.2f}",
            f"{overall.policy_share:.2%}",
        )
    Console().print(table)
