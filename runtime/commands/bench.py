"""`python -m runtime bench`: policies and other systems side by side, live, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.policies.registry import NAMES, TIMED, make_policy
from runtime.prompts import first_of_each_task, read_prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.bench.bench import Plan

POLICIES = ("none", *(f"fixed:{gamma}" for gamma in range(1, 6)), "speckv", "speckv-cost", "confidence", "adaptive")
PER_TASK = 4


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
    parser.add_argument("--prompts", type=Path, metavar="JSONL", help='lines {"task": …, "prompt": …}')
    parser.add_argument(
        "--per-task",
        type=whole_number(1),
        metavar="N",
        help=f"the first N prompts of each task (default: {PER_TASK} of the project's own prompts, all of --prompts)",
    )
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=64, metavar="N", help="of each prompt")
    parser.add_argument("--repeats", type=whole_number(1), default=3, metavar="N", help="timed runs of each prompt")


def run(options: argparse.Namespace) -> int:
    """Compare in each precision and print."""
    for name in options.policies:
        if name not in TIMED:
            make_policy(name, "fp16")  # refuses a wrong name before any model is loaded
    prompts = read_prompts(options.prompts)
    per_task = options.per_task or (None if options.prompts else PER_TASK)
    from rich.console import Console

    from runtime.bench.bench import Plan, bench
    from runtime.bench.environment import environment, load_average
    from runtime.bench.table import print_comparison
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
        policies=tuple(dict.fromkeys(options.policies)),
        prompts=tuple(first_of_each_task(prompts, per_task) if per_task else prompts),
        max_new_tokens=options.max_new_tokens,
        repeats=options.repeats,
        device=device,
    )
    machine = environment(device)
    comparisons = []
    for precision in precisions:
        with _progress(precision) as (announce, advance):
            comparisons.append(bench(plan, precision, announce, advance))
        if not options.json:
            print_comparison(comparisons[-1], Console())
    if options.json:
        machine["load_average_after"] = load_average()
        results = [dataclasses.asdict(comparison) for comparison in comparisons]
        print(json.dumps({**machine, **_settings(plan), "precisions": results}))
    return 0


def _settings(plan: Plan) -> dict[str, object]:
    from runtime.pair.embedded import HUB_ID

    return {
        "target": plan.target or HUB_ID,
        "draft": plan.draft or "default",
        "prompts": [prompt.index for prompt in plan.prompts],
        "max_new_tokens": plan.max_new_tokens,
        "repeats": plan.repeats,
    }


@contextmanager
def _progress(precision: str) -> Iterator[tuple[Callable[[str, int | None], None], Callable[[], None]]]:
    """Yield what `bench` tells of: what begins and every run; shown as a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(precision, total=None)
        yield (
            lambda what, runs: bar.update(task, total=runs, description=f"{precision}: {what}"),
            lambda: bar.advance(task),
        )
