"""The tables of a report, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from runtime.report.bootstrap import Interval
from runtime.report.sources import Input
from runtime.report.summary import HIGHLIGHTED, ORACLE, PUBLISHED, Replayed

Row = tuple[str, Sequence[str]]
"""The row's class, and its cells as HTML."""


def table(caption: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table that scrolls sideways where it is too wide; the first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "\n".join(
        f'<tr{_class(kind)}><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>'
        for kind, cells in rows
    )
    # Focusable, so that a keyboard can scroll it.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def policies(replayed: Replayed) -> str:
    """Return every figure of every policy on one file of traces, the fastest first."""
    ordered = sorted(replayed.policies, key=lambda policy: -policy.tokens_per_second.value)
    header = (
        "policy", "tok/s <small>(95 %)</small>", "ratio <small>(95 %)</small>", *map(escape, replayed.tasks),
        "tokens<br/>per step", "mean<br/>gamma", "own time, µs<br/>per step",
    )  # fmt: skip
    rows = [
        (
            _kind(replayed, policy.name),
            (
                escape(policy.name),
                _interval(policy.tokens_per_second, "{:.1f}"),
                _interval(policy.ratio, "{:.3f}"),
                *(f"{policy.task_ratios[task]:.3f}" for task in replayed.tasks),
                f"{policy.tokens_per_step:.2f}",
                f"{policy.mean_gamma:.2f}",
                f"{policy.policy_us:.1f}<small>{policy.policy_share:.2%}</small>",
            ),
        )
        for policy in ordered
    ]
    return table(f"{escape(replayed.precision)} target, {escape(replayed.traces)}", header, rows)


def paper_policies(performance: Mapping[str, Any]) -> str:
    """Return the paper's policy table: expected tokens per step."""
    measured = performance["tokens_per_step"]
    compressions = list(next(iter(measured.values()))["by_compression"])
    rows = [
        (
            "",
            (
                escape(name),
                *(f"{figures['by_compression'][compression]:.2f}" for compression in compressions),
                _interval(Interval(figures["mean"], figures["low"], figures["high"]), "{:.3f}"),
            ),
        )
        for name, figures in measured.items()
    ]
    header = ("policy", *map(escape, compressions), "all <small>(95 %)</small>")
    return table("Expected tokens per step", header, rows)


def paper_tasks(performance: Mapping[str, Any]) -> str:
    """Return the paper's table by precision and task."""
    rows = [
        (
            "",
            (
                f"{escape(row['compression'])}, {escape(row['task'])}",
                f"{row['fixed_4']:.2f}",
                f"{row['speckv']:.2f}",
                f"{row['improvement_percent']:+.1f} %",
            ),
        )
        for row in performance["by_task"]
    ]
    return table("Expected tokens per step by precision and task", ("", "Fixed-4", "SpecKV", "gain"), rows)


def inputs(files: Sequence[Input]) -> str:
    """Return the files that the report was made from."""
    rows = [("", (escape(file.name), f"{file.bytes:,}", f"<code>{file.sha256}</code>")) for file in files]
    return table("Made from", ("file", "bytes", "sha256"), rows)


def _kind(replayed: Replayed, name: str) -> str:
    if name.partition(":")[0] == HIGHLIGHTED:
        return "ours"
    if name == replayed.best_fixed_name:
        return "best"
    if name == ORACLE:
        return "oracle"
    return "published" if name.startswith(PUBLISHED) else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _interval(figure: Interval, form: str) -> str:
    low, high = form.format(figure.low), form.format(figure.high)
    return f"{form.format(figure.value)}<small>{low} – {high}</small>"
