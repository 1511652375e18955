"""`python -m runtime bench`: policies and other systems side by side, live, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.policies.registry import NAMES, TIMED, make_policy
from runtime.prompts import first_of_each_task, read_prompts
from runtime.rows import RowsFile
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.bench.bench import Comparison
    from runtime.bench.plan import Plan

POLICIES = ("none", *(f"fixed:{gamma}" for gamma in range(1, 6)), "speckv", "speckv-cost", "confidence", "adaptive")
SYSTEMS = ("transformers", "compiled", "assisted", "assisted:4", "flashspec")
PER_TASK = 4
NAMES_OF_A_ROW = ("target", "draft", "device", "precision")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `bench` command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "Compare policies live with each other and with other systems: transformers' generate, assisted generation, "
        "and flashspec where it is installed. All take turns in one run; tokens are compared before time is.",
        "python -m runtime bench --policies none fixed:3 adaptive --per-task 2",
    )
    add_pair(parser)
    parser.add_argument(
        "--precision", nargs="+", metavar="P", help="fp32, bf16, fp16, int8, nf4 (default: as generate)"
    )
    parser.add_argument(
        "--policies", nargs="+", default=POLICIES, metavar="POLICY", help=f"{NAMES} (default: {' '.join(POLICIES)})"
    )
    parser.add_argument(
        "--contenders", nargs="*", choices=SYSTEMS, default=SYSTEMS, metavar="SYSTEM",
        help=f"other systems: {', '.join(SYSTEMS)} (default: all; none where no name follows)",
    )  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="JSONL", help='lines {"task": …, "prompt": …}')
    parser.add_argument(
        "--per-task",
        type=whole_number(1),
        metavar="N",
        help=f"the first N prompts of each task (default: {PER_TASK} of the project's own prompts, all of --prompts)",
    )
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=64, metavar="N", help="of each prompt")
    parser.add_argument("--repeats", type=whole_number(1), default=3, metavar="N", help="timed runs of each prompt")
    parser.add_argument(
        "--seconds", type=whole_number(0), metavar="S",
        help="for timing in each precision, after the tokens are checked: slow contenders then repeat less, or are "
        "timed while they are checked (default: all repeats)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="JSON",
        help="keep the results here, as far as they are after every checked prompt and every round; those of other "
        "pairs, precisions and devices in the file stay",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Compare in each precision and print."""
    for name in options.policies:
        if name not in TIMED:
            make_policy(name, "fp16")  # refuses a wrong name before any model is loaded
    prompts = read_prompts(options.prompts)
    per_task = options.per_task or (None if options.prompts else PER_TASK)
    kept = RowsFile(options.output, "bench", NAMES_OF_A_ROW) if options.output else None
    from runtime.bench.plan import Plan
    from runtime.pair.draft import check_draft
    from runtime.pair.target import check_precision, resolve_device

    check_draft(options.draft, options.target)
    device = resolve_device(options.device)
    precisions = list(dict.fromkeys(options.precision or ["fp16" if device.startswith("cuda") else "fp32"]))
    for precision in precisions:
        check_precision(precision)
    plan = Plan(
        draft=options.draft,
        target=options.target,
        systems=tuple(options.contenders),
        policies=tuple(dict.fromkeys(options.policies)),
        prompts=tuple(first_of_each_task(prompts, per_task) if per_task else prompts),
        max_new_tokens=options.max_new_tokens,
        repeats=options.repeats,
        seconds=options.seconds,
        device=device,
    )
    with _ended_like_an_interrupt():
        rows = [_compare(plan, precision, kept, options.json) for precision in precisions]
    if options.json:
        print(json.dumps({"rows": rows}))
    return 0


def _compare(plan: Plan, precision: str, kept: RowsFile | None, silent: bool) -> dict[str, object]:
    """Compare in one precision, keep and print it; return its row."""

    from runtime.bench.bench import Progress, bench
    from runtime.bench.environment import environment, load_average
    from runtime.bench.table import print_comparison

    machine = {**_settings(plan), **environment(plan.device)}

    def row(comparison: Comparison) -> dict[str, object]:
        return {**machine, "load_average_after": load_average(), **dataclasses.asdict(comparison)}

    def keep(comparison: Comparison) -> None:
        if kept:
            kept.put(row(comparison))

    with _progress(precision) as (announce, advance):
        comparison = bench(plan, precision, Progress(announce, advance, keep))
    keep(comparison)
    if not silent:
        print_comparison(comparison, open_console())
    return row(comparison)


def _settings(plan: Plan) -> dict[str, object]:
    from runtime.pair.embedded import HUB_ID

    return {
        "target": plan.target or HUB_ID,
        "draft": plan.draft or "default",
        "prompts": [prompt.index for prompt in plan.prompts],
        "max_new_tokens": plan.max_new_tokens,
        "repeats": plan.repeats,
        "seconds": plan.seconds,
    }


@contextmanager
def _ended_like_an_interrupt() -> Iterator[None]:
    """Let SIGTERM, as `timeout` sends it, do what Ctrl-C does: keep what there is."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(precision: str) -> Iterator[tuple[Callable[[str, int | None], None], Callable[[], None]]]:
    """Yield what `bench` tells of: what begins and every run; shown as a bar on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=open_console(stderr=True), transient=True) as bar:
        task = bar.add_task(precision, total=None)
        yield (
            lambda what, runs: bar.update(task, total=runs, description=f"{precision}: {what}"),
            lambda: bar.advance(task),
        )
