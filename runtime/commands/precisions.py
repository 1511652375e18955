"""`python -m runtime precisions`: what compressing the target costs and changes on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.machine import device_name
from runtime.prompts import first_of_each_task, read_prompts
from runtime.rows import RowsFile
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.pair.target import Target

NAMES_OF_A_ROW = ("target", "draft", "device", "threads", "waiting", "precision")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `precisions` command."""
    parser = add_command(
        subparsers,
        "precisions",
        run,
        "Compare precisions of a target: weight bytes, step times, agreement with token-by-token greedy, perplexity.",
        "python -m runtime precisions --precision fp32 int8 nf4 --device cpu",
    )
    add_pair(parser)
    parser.add_argument("--precision", nargs="+", default=["fp16", "int8", "nf4"], metavar="P")
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=64, metavar="N", help="of each prompt")
    parser.add_argument(
        "--output", type=Path, metavar="JSON",
        help="keep each precision here as soon as it is measured; those of other pairs, precisions and devices in the "
        "file stay",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure each precision in turn and print the table."""
    kept = RowsFile(options.output, "precisions", NAMES_OF_A_ROW) if options.output else None
    from rich.progress import track

    from runtime.pair.target import check_precision, load_target, resolve_device

    for precision in options.precision:
        check_precision(precision)
    device = resolve_device(options.device)
    rows = []
    try:
        for precision in track(options.precision, "precisions", console=open_console(stderr=True)):
            rows.append(_measure(load_target(options.target, precision, device), options, device))
            if kept:
                kept.put(rows[-1])
    finally:  # interrupted or failed, what was measured stays
        if rows and options.json:
            print(json.dumps({"rows": rows}), flush=True)
        elif rows:
            _print_table(rows, device)
    return 0


def _measure(target: Target, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Measure one loaded target; return its row."""
    from runtime.bench.environment import environment
    from runtime.pair.draft import load_draft
    from runtime.profile.precisions import measure_precision

    prompts = first_of_each_task(read_prompts(), 1)
    measured = measure_precision(target, load_draft(options.draft, target), prompts, options.max_new_tokens)
    return {
        "target": target.name,
        "draft": options.draft or "default",
        **environment(device),
        "waiting": os.environ["OMP_WAIT_POLICY"].lower(),
        **dataclasses.asdict(measured),
    }


def _print_table(rows: list[dict[str, Any]], device: str) -> None:
    from rich.table import Table

    # A column a precision: there are five at most, which fit 80 characters.
    table = Table("", title=f"one eager forward at context 300, {device_name(device)}")
    for row in rows:
        table.add_column(row["precision"], justify="right", no_wrap=True)
    table.add_row("weights, MB", *(f"{row['weight_bytes'] / 1e6:.0f}" for row in rows))
    table.add_row("draft, ms", *(f"{row['draft_ms']:.1f}" for row in rows))
    for width in rows[0]["target_ms"]:
        table.add_row(f"q={width.removeprefix('eager')}, ms", *(f"{row['target_ms'][width]:.1f}" for row in rows))
    table.add_row("agreement", *(f"{row['agreement']:.1%}" for row in rows))
    table.add_row("perplexity", *(f"{row['perplexity']:.2f}" for row in rows))
    open_console().print(table)
