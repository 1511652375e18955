"""`python -m runtime select`: one decision for given signals."""

from __future__ import annotations

import argparse
import json

from runtime.commands.arguments import Subparsers, add_command, whole_number
from runtime.contract import COMPRESSION_CODES, PUBLISHED_CANDIDATES
from runtime.decision.selector import Decision, GammaSelector
from runtime.decision.session import PROVIDERS
from runtime.decision.signals import Signals
from runtime.errors import SpeckvError
from runtime.terminal import open_console


def add_parser(subparsers: Subparsers) -> None:
    """Add the `select` command."""
    parser = add_command(
        subparsers,
        "select",
        run,
        "Print the decision for the four draft signals of a step.",
        "python -m runtime select --signals 0.9 0.82 1.7 0.55 --compression nf4",
    )
    parser.add_argument(
        "--signals",
        type=float,
        nargs=4,
        required=True,
        metavar=("MEAN_ENTROPY", "MEAN_CONFIDENCE", "MAX_ENTROPY", "MIN_CONFIDENCE"),
        help="entropies in bits, confidences as top-1 probabilities",
    )
    parser.add_argument("--compression", choices=COMPRESSION_CODES, default="fp16", help="precision of the target")
    parser.add_argument("--candidates", type=whole_number(0), nargs="+", metavar="N", help="default: 2 4 6 8 tokens")
    parser.add_argument("--step-cost", type=float, nargs="+", metavar="COST", help="one a candidate; default: ones")
    parser.add_argument("--provider", choices=("auto", *PROVIDERS), default="auto", help="where onnxruntime computes")


def run(options: argparse.Namespace) -> int:
    """Decide and print."""
    selector = GammaSelector(providers=options.provider)
    candidates = options.candidates or list(PUBLISHED_CANDIDATES)
    signals = Signals(*options.signals)
    _check_order(signals)
    decision = selector.select(signals, options.compression, candidates, options.step_cost)
    if options.json:
        print(json.dumps(_as_json(decision, candidates, selector.provider)))
    else:
        _print_table(decision, candidates, options.step_cost, selector.provider)
    return 0


def _check_order(signals: Signals) -> None:
    """Refuse what no draft can say: the order of the four is easily mixed up."""
    if signals.mean_draft_entropy > signals.max_draft_entropy:
        raise SpeckvError("--signals: the mean entropy (first) is above the highest (third): keep that order")
    if signals.mean_draft_confidence < signals.min_draft_confidence:
        raise SpeckvError(
            "--signals: the mean confidence (second) is below the lowest (fourth): give them in that order"
        )


def _as_json(decision: Decision, candidates: list[int], provider: str) -> dict[str, object]:
    return {
        "gamma": decision.gamma,
        "candidates": candidates,
        "expected_tokens": [float(x) for x in decision.expected_tokens],
        "predicted_acceptance_rate": [float(x) for x in decision.predicted_acceptance_rate],
        "provider": provider,
    }


def _print_table(decision: Decision, candidates: list[int], step_cost: list[float] | None, provider: str) -> None:
    from rich.table import Table

    table = Table(title=f"gamma = {decision.gamma}  ({provider})")
    for column in ("candidate", "predicted acceptance rate", "expected tokens", "step cost", ""):
        table.add_column(column, justify="right")
    for i, candidate in enumerate(candidates):
        table.add_row(
            str(candidate),
            f"{decision.predicted_acceptance_rate[i]:.4f}",
            f"{decision.expected_tokens[i]:.4f}",
            f"{step_cost[i] if step_cost else 1:g}",
            "chosen" if candidate == decision.gamma else "",
        )
    open_console().print(table)
