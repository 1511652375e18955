"""`python -m runtime latency`: what one decision costs, side by side."""

from __future__ import annotations

import argparse
import json
import platform

from runtime.artifacts import package_folder
from runtime.commands.arguments import Subparsers, add_command, whole_number
from runtime.decision.latency import Process, Timing, as_json, measure_decisions, measure_process
from runtime.decision.session import PROVIDERS, import_onnxruntime
from runtime.machine import processor
from runtime.terminal import open_console


def add_parser(subparsers: Subparsers) -> None:
    """Add the `latency` command."""
    parser = add_command(
        subparsers,
        "latency",
        run,
        "Measure one decision side by side: sklearn, numpy, onnxruntime, CUDA where there is one.",
        "python -m runtime latency --rounds 20",
    )
    parser.add_argument("--rounds", type=whole_number(3), default=20, metavar="N", help="rounds of 200 decisions")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""

    onnxruntime = import_onnxruntime()
    cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    with open_console(stderr=True).status("timing decisions and fresh processes"):
        timings = measure_decisions(package_folder(), cuda, options.rounds)
        process = measure_process()
    if options.json:
        machine = {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
        print(json.dumps({**as_json(timings, process), "machine": {**machine, "processor": processor()}}))
    else:
        _print_tables(timings, process)
    return 0


def _print_tables(timings: list[Timing], process: Process) -> None:
    from rich.table import Table

    slowest = timings[0]
    table = Table(title="one decision, microseconds (10th and 90th percentile of the rounds)")
    for column in ("", "median", "p10", "p90", f"times faster than {slowest.name}"):
        table.add_column(column, justify="right" if column else "left")
    for timing in timings:
        ratio = slowest.median / timing.median
        table.add_row(timing.name, f"{timing.median:.1f}", f"{timing.low:.1f}", f"{timing.high:.1f}", f"{ratio:.1f}")
    console = open_console()
    console.print(table)
    console.print(
        f"a fresh process to its first decision: {process.seconds:.3f} s, {process.peak_megabytes:.0f} MB peak"
    )
