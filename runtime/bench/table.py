"""The comparison for people, in at most 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from runtime.bench.bench import Comparison
from runtime.bench.score import Interval
from runtime.replay.comparison import OVERALL

BLANK = "–"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print all prompts together, then the tasks, then what did not go as planned."""
    console.print(_overall(comparison))
    console.print(_tasks(comparison))
    for name, reason in comparison.left_out.items():
        console.print(f"left out: {name} ({reason})")
    for tie in comparison.near_ties:
        console.print(
            f"near tie: {tie.contender}, prompt {tie.prompt}, new token {tie.position}, logits {tie.gap:.1g} apart"
        )


def _overall(comparison: Comparison) -> Table:
    best = comparison.best_fixed.get(OVERALL, "no fixed gamma")
    table = _table(f"{comparison.precision} target, all prompts; ratio to {best}; 95 % bootstrap intervals")
    memory = any(contender.peak_memory_bytes is not None for contender in comparison.contenders)
    headers = ("tok/s", "interval", "ratio", "interval", "tok/step", "gamma", "agree", *(["MB"] if memory else []))
    for header in headers:
        table.add_column(header, justify="right")
    for contender in comparison.contenders:
        score = contender.scores[OVERALL]
        table.add_row(
            contender.name,
            f"{score.tokens_per_second:.1f}",
            _interval(score.interval, 1),
            BLANK if score.ratio is None else f"{score.ratio:.3f}",
            _interval(score.ratio_interval, 2),
            f"{score.tokens_per_step:.2f}",
            f"{score.mean_gamma:.1f}",
            f"{contender.agreement:.1%}",
            *([f"{(contender.peak_memory_bytes or 0) / 1e6:.0f}"] if memory else []),
        )
    return table


def _tasks(comparison: Comparison) -> Table:
    tasks = [task for task in comparison.contenders[0].scores if task != OVERALL]
    table = _table("tok/s of each task (ratio to its own best fixed gamma)")
    table.caption = "best fixed gamma: " + ", ".join(
        f"{task} {comparison.best_fixed.get(task, BLANK)}" for task in tasks
    )
    for task in tasks:
        table.add_column(task, justify="right")
    for contender in comparison.contenders:
        scores = [contender.scores[task] for task in tasks]
        cells = (
            f"{score.tokens_per_second:.1f}" + (f" ({score.ratio:.2f})" if score.ratio is not None else "")
            for score in scores
        )
        table.add_row(contender.name, *cells)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def _interval(interval: Interval | None, digits: int) -> str:
    return BLANK if interval is None else f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"
