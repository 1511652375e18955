"""`python -m runtime roofline`: the fast loop's calls on known shapes, beside what reading their bytes takes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.commands.arguments import Subparsers, add_command, whole_number
from runtime.errors import SpeckvError
from runtime.rows import RowsFile
from runtime.terminal import open_console

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS = ("smollm2", "llama-3.2")
PRECISIONS = ("fp16", "int8", "nf4")
FIGURES = (("ms", 3), ("limit_ms", 3), ("times_limit", 2))
"""Of each call, with digits after the point."""
NAMES_OF_A_ROW = ("pair", "precision", "context", "device")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `roofline` command."""
    parser = add_command(
        subparsers,
        "roofline",
        run,
        "Time one draft forward and one verification of the CUDA graphs on pairs of known shapes with random weights, "
        "and compare them with the time of reading their weights and caches once.",
        "python -m runtime roofline --pair llama-3.2 --context 256 4096",
    )
    parser.add_argument("--pair", nargs="+", choices=PAIRS, default=PAIRS, metavar="PAIR", help=", ".join(PAIRS))
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp16"], metavar="P", help=", ".join(PRECISIONS)
    )
    parser.add_argument("--context", nargs="+", type=whole_number(1), default=[256, 1024, 4096], metavar="N")
    parser.add_argument("--output", type=Path, metavar="JSON", help="keep each row here as soon as it is measured")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    kept = RowsFile(options.output, "roofline", NAMES_OF_A_ROW) if options.output else None
    rows = []
    for row in _measure(options):
        rows.append(row)
        if kept:
            kept.put(row)
    if options.json:
        print(json.dumps({"rows": rows}))
    else:
        _print_table(rows)
    return 0


def _measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the row of every pair, precision and context."""

    from runtime.bench.environment import environment
    from runtime.bench.shapes import PAIRS as SHAPES
    from runtime.bench.steps import measure_steps
    from runtime.pair.target import check_precision, resolve_device

    if resolve_device(None) == "cpu":
        raise SpeckvError("roofline times CUDA graphs: run it on a machine with an NVIDIA GPU")
    for precision in options.precision:
        check_precision(precision)
    machine = environment("cuda")
    with open_console(stderr=True).status("") as status:
        for pair in options.pair:
            for precision in options.precision:

                def announce(what: str, name: str = f"{pair}, {precision}") -> None:
                    status.update(f"{name}: {what}")

                for row in measure_steps(SHAPES[pair], precision, options.context, "cuda", announce):
                    yield {"pair": pair, **machine, **dataclasses.asdict(row)}


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    copied = max(row["copy_bytes_per_second"] for row in rows) / 1e9
    table = Table(
        title="milliseconds of one draft forward and of verifying 5 tokens",
        caption=f"limit: reading weights and caches once at {copied:.0f} GB/s (a copy); memory: peak over these",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("pair", "target", "context", "draft", "limit", "×", "verify", "limit", "×", "memory"):
        table.add_column(column, justify="left" if column == "pair" else "right", no_wrap=True)
    for row in rows:
        calls = (f"{row[call][figure]:.{digits}f}" for call in ("draft", "verify") for figure, digits in FIGURES)
        memory = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / row['expected_bytes']:.3f}"
        table.add_row(row["pair"], row["precision"], str(row["context"]), *calls, memory)
    open_console().print(table)
