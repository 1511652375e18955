"""Gamma over the course of one output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.replay.traces import LOOKAHEAD
from runtime.report.drawing import WIDTH, axes, colour, render
from runtime.report.summary import Course

HEIGHT = 160


def course(followed: Course, policy: str, name: str) -> str:
    """Draw one policy's steps along the output: each a bar as wide as its tokens and as high as its gamma."""

    def paint(figure: Figure) -> None:
        plot = axes(figure, 40, 28, 14, 38)
        _steps(plot, followed.accepted, followed.steps[policy])
        plot.set_xlim(0, len(followed.accepted))
        plot.set_ylim(0, LOOKAHEAD)
        plot.set_yticks(range(0, LOOKAHEAD + 1, 4))
        plot.set_xlabel("tokens of the output")
        plot.set_ylabel("tokens drafted")
        plot.set_title(policy, x=-0.13)

    label = f"{policy}: drafted, accepted and possible tokens of each step over one output"
    return render(name, label, WIDTH, HEIGHT, paint)


def _steps(plot: Axes, possible: Sequence[int], steps: Sequence[tuple[int, int, int]]) -> None:
    bar: dict[str, Any] = {"align": "edge", "linewidth": 0.8, "edgecolor": colour("surface")}
    position = 0
    for gamma, accepted, width in steps:
        plot.bar(position, accepted, width, color=colour("blue"), **bar)
        plot.bar(position, gamma - accepted, width, accepted, color=colour("vermilion"), **bar)
        # The last token is the target's own whatever is drafted.
        missed = min(possible[position], len(possible) - position - 1) - gamma
        if missed > 0:
            plot.bar(position, missed, width, gamma, color=colour("faint"), **bar)
        position += width
