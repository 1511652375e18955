"""`python -m runtime report`: a replay as one page of plots."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command
from runtime.commands.jobs import add_replay_options, read_jobs, replay_progress
from runtime.errors import printable
from runtime.files import check_writable
from runtime.machine import processor
from runtime.policies.step_times import read_all_step_times
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.report.summary import Summary


def add_parser(subparsers: Subparsers) -> None:
    """Add the `report` command."""
    parser = add_command(
        subparsers,
        "report",
        run,
        "Replay policies as `replay` does, and write a self-contained page of plots, its numbers and a picture.",
        "python -m runtime report --traces profiles/mine/fp16.npz profiles/mine/nf4.npz \\\n"
        "    --step-times profiles/mine/step_times_ms.json --output profiles/mine/report",
    )
    add_replay_options(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or one that holds an earlier report"
    )


def run(options: argparse.Namespace) -> int:
    """Replay every file, and write report.html, replay.json and rates.svg."""
    from runtime.report.folder import NUMBERS, PAGE, PICTURE, check_folder, write_report
    from runtime.report.page import page
    from runtime.report.plots.rates import rates_file

    check_folder(options.output)
    check_writable(options.output, "give another --output")
    summary = _summarise(options)
    numbers = json.dumps(dataclasses.asdict(summary), indent=1, allow_nan=False, ensure_ascii=False)
    # The numbers first: they mark the folder as a report's, should the others not be written.
    files = {NUMBERS: numbers + "\n", PAGE: page(summary), PICTURE: rates_file(summary.replays)}
    sizes = write_report(options.output, files)
    if options.json:
        print(numbers)
    else:
        _print_table(options.output, sizes)
    return 0


def _summarise(options: argparse.Namespace) -> Summary:
    from runtime.artifacts import MODELS
    from runtime.replay.comparison import replay_all
    from runtime.report.folder import MADE_BY
    from runtime.report.reliability import read_reliability
    from runtime.report.sources import predictor_evaluation, read_inputs, versions
    from runtime.report.summary import FORMAT_VERSION, Summary, summarise

    jobs = read_jobs(options)
    step_times = read_all_step_times(options.step_times)
    reliability = read_reliability(MODELS)
    with replay_progress(jobs) as advance:
        replays = [replay_all(job.texts, job.policies, job.times, advance) for job in jobs]
    return Summary(
        made_by=MADE_BY,
        format_version=FORMAT_VERSION,
        command=_command(options),
        backend=options.backend,
        inputs=read_inputs(options.traces, options.step_times, MODELS),
        versions=versions(),
        processor=processor(),
        replays=[
            summarise(job.traces.name, job.precision, job.texts, runs) for job, runs in zip(jobs, replays, strict=True)
        ],
        step_times=step_times,
        reliability=reliability,
        predictor=predictor_evaluation(),
    )


def _command(options: argparse.Namespace) -> str:
    """Return the command that makes the same report, the files without their folders."""
    words = ["--traces", *(path.name for path in options.traces), "--step-times", options.step_times.name]
    words += ["--backend", options.backend, "--policies", *options.policies]
    words += ["--compression", options.compression] if options.compression else []
    return f"python -m runtime report {shlex.join(words)} --output DIR"


def _print_table(folder: Path, sizes: dict[str, int]) -> None:
    from rich.table import Table

    table = Table("file", "bytes")
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(printable(str(folder / name)), f"{size:,}")
    open_console().print(table)
