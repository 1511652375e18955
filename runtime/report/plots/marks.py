"""What several plots share: how a policy looks, and labels beside the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from runtime.report.drawing import colour, spread
from runtime.report.summary import HIGHLIGHTED, ORACLE, PUBLISHED, Replayed

SERIES = ("blue", "vermilion", "green", "purple")
MARKERS = ("o", "s", "^", "D")


class Look(NamedTuple):
    """How a policy is drawn wherever it appears."""

    role: str
    """Of the palette."""
    marker: str
    size: float
    """Pixels across."""
    weight: str
    """Of its name."""


def look(replayed: Replayed, name: str) -> Look:
    """Return the look of a policy: singled out are this project's, the paper's, the best fixed gamma and the oracle."""
    if name.partition(":")[0] == HIGHLIGHTED:
        return Look("blue", "o", 9, "bold")
    if name == replayed.best_fixed_name:
        return Look("ink", "s", 7, "bold")
    if name == ORACLE:
        return Look("green", "D", 6.5, "normal")
    if name.startswith(PUBLISHED):
        return Look("vermilion", "^", 7.5, "normal")
    return Look("other", "o", 6, "normal")


def mark(looks: Look) -> dict[str, Any]:
    """Return matplotlib's arguments for the marker; the oracle's is hollow, for nobody can build one."""
    hollow = looks.marker == "D"
    return {
        "marker": looks.marker,
        "markersize": looks.size,
        "color": colour(looks.role),
        "markerfacecolor": colour("surface" if hollow else looks.role),
        "markeredgecolor": colour(looks.role if hollow else "surface"),
        "markeredgewidth": 1.6 if hollow else 1,
    }


class End(NamedTuple):
    """The end of a line, or a lone point, that wants a label."""

    x: float
    y: float
    text: str
    role: str
    weight: str = "normal"


def label_ends(plot: Axes, ends: Sequence[End], column: float | None = None, gap: float = 13) -> None:
    """Write labels right of their ends, moved apart where they would overlap and then joined to them by a thin line.

    Args:
        plot: with its final limits.
        ends: what to label.
        column: where the labels begin, in data units; beside each end by default.
        gap: pixels between lines of text.
    """
    low, high = plot.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    pixels = plot.transData.transform([(end.x, end.y) for end in ends])
    heights = spread([float(y) for _, y in pixels], gap, low + gap / 2, high - gap / 2)
    begin = None if column is None else float(plot.transData.transform((column, ends[0].y))[0])
    for end, (x, y), height in zip(ends, pixels, heights, strict=True):
        left = float(x) + 9 if begin is None else begin
        to, start = plot.transData.inverted().transform([(left, height), (float(x) + 6, float(y))])
        if begin is not None or abs(height - y) > 3:
            middle = plot.transData.inverted().transform((left - 3, height))
            line = [start[0], middle[0]], [start[1], middle[1]]
            plot.plot(*line, color=colour("faint"), linewidth=0.8, zorder=1, clip_on=False)
        style: dict[str, Any] = {"color": colour(end.role), "weight": end.weight}
        plot.text(to[0], to[1], end.text, va="center", clip_on=False, **style)
