"""Acceptance by place in the draft and by task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from runtime.prompts import OVERALL
from runtime.replay.traces import LOOKAHEAD
from runtime.report.acceptance import Acceptance
from runtime.report.drawing import WIDTH, axes, colour, render
from runtime.report.plots.marks import MARKERS, SERIES, End, label_ends
from runtime.report.summary import Replayed

HEIGHT = 240


def conditional(replayed: Replayed, name: str) -> str:
    """Draw the share accepted at each place, of those that got there."""
    return _draw(replayed, name, "accepted, if all before it were", lambda part: part.conditional)


def survival(replayed: Replayed, name: str) -> str:
    """Draw the share of drafts that are accepted up to each place."""
    return _draw(replayed, name, "accepted up to and with it", lambda part: part.survival)


def _draw(replayed: Replayed, name: str, what: str, pick: Callable[[Acceptance], Sequence[float | None]]) -> str:
    drawn = {task: part for task, part in replayed.acceptance.items() if task != OVERALL}
    shown = {task: [share for share in pick(part) if share is not None] for task, part in drawn.items()}
    lowest = math.floor(4 * min(min(shares) for shares in shown.values())) / 4

    def paint(figure: Figure) -> None:
        plot = axes(figure, 44, 30, 88, 40)
        plot.set_xticks([1, 4, 8, 12, 16])
        plot.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        plot.set_xlim(0.5, LOOKAHEAD + 0.3)
        plot.set_ylim(lowest, 1.02)
        ends = []
        for index, (task, shares) in enumerate(shown.items()):
            role, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
            places = range(1, len(shares) + 1)
            plot.plot(places, shares, color=colour(role), linewidth=1.6, marker=marker, markersize=3.5)
            ends.append(End(len(shares), shares[-1], task, role))
        label_ends(plot, ends)
        plot.set_xlabel("place in the draft, tokens")
        plot.set_title(what, x=-0.19)

    return render(name, f"{replayed.precision}: share {what}, by place in the draft and task", WIDTH, HEIGHT, paint)
