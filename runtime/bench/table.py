"""The comparison for people, in at most 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from runtime.bench.bench import Comparison
from runtime.bench.score import Interval
from runtime.prompts import OVERALL

BLANK = "–"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print all prompts together, the tasks, the limits of memory, then what did not go as planned."""
    console.print(_overall(comparison))
    console.print(_tasks(comparison))
    console.print(_limits(comparison))
    console.print(f"loop: {comparison.loop}")
    for name, reason in comparison.left_out.items():
        console.print(f"left out: {name} ({reason})")
    for tie in comparison.near_ties:
        console.print(
            f"near tie: {tie.contender}, prompt {tie.prompt}, new token {tie.position}, logits {tie.gap:.1g} apart"
        )


def _overall(comparison: Comparison) -> Table:
    best = comparison.best_fixed.get(OVERALL, "no fixed gamma")
    table = _table(f"{comparison.precision} target, all prompts; ratio to {best}; 95 % bootstrap intervals")
    for header in ("tok/s", "interval", "ratio", "interval", "tok/step", "gamma", "agree"):
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


def _limits(comparison: Comparison) -> Table:
    """What reading the weights and caches once a pass would allow, and the memory beside what these take."""
    copied, expected = comparison.copy_bytes_per_second, comparison.weights_and_caches_bytes
    table = _table(f"limit of reading at {copied / 1e9:.0f} GB/s (a copy); weights and caches {expected / 1e6:.0f} MB")
    for header in ("repeats", "limit, tok/s", "reached", "peak, MB", "of expected"):
        table.add_column(header, justify="right")
    for contender in comparison.contenders:
        peak = contender.peak_memory_bytes
        table.add_row(
            contender.name,
            str(contender.repeats),
            f"{contender.limit_tokens_per_second:.0f}",
            f"{contender.bandwidth_share:.1%}",
            *((BLANK, BLANK) if peak is None else (f"{peak / 1e6:.0f}", f"{peak / expected:.2f}")),
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def _interval(interval: Interval | None, digits: int) -> str:
    return BLANK if interval is None else f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"
