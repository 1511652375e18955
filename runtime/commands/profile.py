"""`python -m runtime profile`: traces, step records and step times of one's own pair."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.contract import PUBLISHED_CANDIDATES
from runtime.errors import SpeckvError
from runtime.files import check_writable
from runtime.prompts import read_prompts
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.profile.profile import Plan


def add_parser(subparsers: Subparsers) -> None:
    """Add the `profile` command."""
    parser = add_command(
        subparsers,
        "profile",
        run,
        "Profile a draft/target pair: greedy traces, step records, step times. Continues an interrupted profile; "
        "under torchrun or accelerate launch the prompts are shared by the processes.",
        "python -m runtime profile --precision fp16 nf4 --output profiles/mine",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new, or a profile to continue")
    add_pair(parser)
    parser.add_argument("--precision", nargs="+", default=["fp16"], metavar="P", help="fp32, bf16, fp16, int8, nf4")
    parser.add_argument("--gammas", nargs="+", type=whole_number(1), default=list(PUBLISHED_CANDIDATES), metavar="N")
    parser.add_argument("--prompts", type=Path, metavar="JSONL", help='lines {"task": …, "prompt": …}')
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=128, metavar="N", help="of each prompt")


def run(options: argparse.Namespace) -> int:
    """Profile with a progress bar and say what was written."""
    prompts = tuple(read_prompts(options.prompts))
    from runtime.pair.target import check_precision, resolve_device
    from runtime.profile.profile import Plan
    from runtime.replay.traces import LOOKAHEAD

    for precision in options.precision:
        check_precision(precision)
    if max(options.gammas) > LOOKAHEAD:
        raise SpeckvError(
            f"--gammas {max(options.gammas)}: a trace looks {LOOKAHEAD} tokens ahead, choose at most that"
        )
    check_writable(options.output, "give another --output")
    plan = Plan(
        draft=options.draft,
        target=options.target,
        precisions=tuple(dict.fromkeys(options.precision)),
        gammas=tuple(dict.fromkeys(options.gammas)),
        prompts=prompts,
        max_new_tokens=options.max_new_tokens,
        device=resolve_device(options.device),
        output=options.output,
    )
    _with_progress(plan)
    files = sorted(path.name for path in options.output.iterdir() if path.is_file())
    print(json.dumps({"output": str(options.output), "files": files}) if options.json else "\n".join(files))
    return 0


def _with_progress(plan: Plan) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from runtime.profile.profile import profile

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=open_console(stderr=True)) as bar:
        tasks = {precision: bar.add_task(f"{precision}: waiting", total=None) for precision in plan.precisions}

        def done(precision: str, prompts: int, total: int) -> None:
            bar.update(tasks[precision], description=f"{precision}: prompts", completed=prompts, total=total)

        profile(plan, done, lambda precision, what: bar.update(tasks[precision], description=f"{precision}: {what}"))
