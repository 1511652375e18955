"""What the command lines share: a parser with an example, the pair, and checked numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Subparsers = Any  # argparse's own type for it is private

LARGEST = 2**31 - 1
"""Of the numbers that count something."""
LARGEST_SEED = 2**62 - 1


def add_command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Add the subcommand `name` with its summary, an example and `--json`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.set_defaults(run=run)
    return parser


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a draft/target pair and where it runs."""
    parser.add_argument("--target", metavar="ID", help="Hub id or folder (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--draft", metavar="ID", help="Hub id, folder, or early-exit[:LAYERS] of the target")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA where there is one")


def whole_number(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """Return an argparse type: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is above {most}")
        return value

    return parse
