"""`python -m runtime throughput`: tokens per second against the number of texts side by side."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.policies.registry import NAMES, TIMED, make_policy
from runtime.prompts import Prompt, read_prompts
from runtime.rows import RowsFile
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.bench.throughput import Load, Measurement

ROWS = (1, 4, 16, 64)
MOST_TEXTS = 2**16
"""What each gave is kept until all have ended."""
POLICIES = ("none", "fixed:3", "adaptive")
NAMES_OF_A_ROW = ("target", "draft", "device", "precision", "rows", "policy")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `throughput` command."""
    parser = add_command(
        subparsers,
        "throughput",
        run,
        "Measure tokens per second of many texts against how many are decoded side by side. What is finished when the "
        "run is interrupted is printed.",
        "python -m runtime throughput --rows 1 16 --policies none adaptive --texts 32",
    )
    add_pair(parser)
    parser.add_argument(
        "--precision", nargs="+", metavar="P", help="fp32, bf16, fp16, int8, nf4 (default: as generate)"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=whole_number(1, MOST_TEXTS),
        default=ROWS,
        metavar="N",
        help=f"default: {' '.join(map(str, ROWS))}",
    )
    parser.add_argument(
        "--policies", nargs="+", default=POLICIES, metavar="POLICY", help=f"{NAMES} (default: {' '.join(POLICIES)})"
    )
    parser.add_argument("--prompts", type=Path, metavar="JSONL", help='lines {"task": …, "prompt": …}')
    parser.add_argument(
        "--texts",
        type=whole_number(1, MOST_TEXTS),
        metavar="N",
        help="prompts in turn, all at every --rows (default: twice the most)",
    )
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=128, metavar="N", help="of each text")
    parser.add_argument("--repeats", type=whole_number(1), default=3, metavar="N", help="timed runs of all texts")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="JSON",
        help="keep each measurement here as soon as it is there; those of other pairs, devices, precisions, rows and "
        "policies in the file stay",
    )


def run(options: argparse.Namespace) -> int:
    """Measure in each precision and print."""
    for name in options.policies:
        if name not in TIMED:
            make_policy(name, "fp16")  # refuses a wrong name before any model is loaded
    prompts = read_prompts(options.prompts)
    kept = RowsFile(options.output, "throughput", NAMES_OF_A_ROW) if options.output else None
    from rich.progress import Progress

    from runtime.bench.environment import environment
    from runtime.bench.throughput import measure
    from runtime.pair.draft import check_draft
    from runtime.pair.target import check_precision, resolve_device

    check_draft(options.draft, options.target)
    device = resolve_device(options.device)
    precisions = list(dict.fromkeys(options.precision or ["fp16" if device.startswith("cuda") else "fp32"]))
    for precision in precisions:
        check_precision(precision)
    load = _load(options, prompts, device)
    settings = {**environment(device), **_settings(load)}
    found: list[Measurement] = []
    try:
        with Progress(console=open_console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=len(precisions) * len(load.rows) * len(load.policies))
            for precision in precisions:
                for measurement in measure(load, precision, lambda what: bar.update(task, description=what)):
                    found.append(measurement)
                    if kept:
                        kept.put({**settings, **dataclasses.asdict(measurement)})
                    bar.advance(task)
    finally:  # interrupted or failed, what was measured stays
        if found and options.json:
            results = [dataclasses.asdict(measurement) for measurement in found]
            print(json.dumps({**settings, "measurements": results}), flush=True)
        elif found:
            _print_tables(found, load)
    return 0


def _load(options: argparse.Namespace, prompts: Sequence[Prompt], device: str) -> Load:
    from runtime.bench.throughput import Load

    rows = sorted(set(options.rows))
    return Load(
        draft=options.draft,
        target=options.target,
        policies=tuple(dict.fromkeys(options.policies)),
        rows=tuple(rows),
        prompts=tuple(islice(cycle(prompts), options.texts or 2 * rows[-1])),
        max_new_tokens=options.max_new_tokens,
        repeats=options.repeats,
        device=device,
    )


def _settings(load: Load) -> dict[str, object]:
    from runtime.pair.embedded import HUB_ID

    return {
        "target": load.target or HUB_ID,
        "draft": load.draft or "default",
        "prompts": [prompt.index for prompt in load.prompts],
        "max_new_tokens": load.max_new_tokens,
        "repeats": load.repeats,
    }


def _print_tables(found: list[Measurement], load: Load) -> None:
    from rich.table import Table

    for precision in dict.fromkeys(measurement.precision for measurement in found):
        table = Table(
            title=f"{precision} target: tok/s of {len(load.prompts)} texts (times its own at the fewest rows)"
        )
        table.add_column("policy", no_wrap=True)
        for column in ("rows", "tok/s", "agree", "MB"):
            table.add_column(column, justify="right")
        for measurement in found:
            if measurement.precision == precision:
                table.add_row(*_cells(measurement))
        open_console().print(table)


def _cells(measurement: Measurement) -> tuple[str, ...]:
    memory = measurement.peak_memory_bytes
    return (
        measurement.policy,
        str(measurement.rows),
        f"{measurement.tokens_per_second:.1f} ({measurement.ratio:.2f})",
        f"{measurement.agreement:.1%}",
        "–" if memory is None else f"{memory / 1e6:.0f}",
    )
