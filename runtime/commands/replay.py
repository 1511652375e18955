"""`python -m runtime replay`: what policies would have cost on traced outputs, exactly."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command
from runtime.commands.jobs import Job, add_replay_options, read_jobs, replay_progress
from runtime.errors import printable
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.replay.comparison import Comparison


def add_parser(subparsers: Subparsers) -> None:
    """Add the `replay` command."""
    parser = add_command(
        subparsers,
        "replay",
        run,
        "Replay policies exactly over traced greedy outputs and compare their tokens per second.",
        "python -m runtime replay --traces profiles/mine/fp16.npz --step-times profiles/mine/step_times_ms.json",
    )
    add_replay_options(parser)


def run(options: argparse.Namespace) -> int:
    """Replay every file and print one table each."""
    from runtime.replay.comparison import compare

    jobs = read_jobs(options)
    with replay_progress(jobs) as advance:
        comparisons = [compare(job.texts, job.policies, job.times, advance) for job in jobs]
    results = list(zip(jobs, comparisons, strict=True))
    if options.json:
        print(json.dumps([_as_json(*result, options.backend) for result in results]))
    else:
        for result in results:
            _print_tables(*result, options.backend)
    return 0


def _as_json(job: Job, comparison: Comparison, backend: str) -> dict[str, object]:
    head = {"traces": str(job.traces), "compression": job.precision, "backend": backend}
    return {**head, **dataclasses.asdict(comparison)}


def _print_tables(job: Job, comparison: Comparison, backend: str) -> None:
    from rich import box
    from rich.table import Table

    best = comparison.best_fixed
    title = f"{printable(job.traces.name)}: {job.precision} target, {backend} step times; "
    title += "ratio to the best fixed gamma in hindsight"
    caption = "best fixed gamma: " + ", ".join(f"{task} {best[task]}" for task in best)
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)  # fits 80 columns
    tasks = list(best)
    table.add_column("policy", no_wrap=True)
    table.add_column("tok/s", justify="right", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right", overflow="fold", min_width=5)
    for column in ("tokens\nper\nstep", "mean\ngamma", "policy's\ntime"):
        table.add_column(column, justify="right", no_wrap=True)
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
    open_console().print(table)
