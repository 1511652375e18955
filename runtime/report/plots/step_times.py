"""What one forward takes, by the number of tokens in it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from runtime.report.drawing import WIDTH, axes, colour, render
from runtime.report.plots.marks import MARKERS, End, label_ends

HEIGHT = 240
ROLES = {"eager": "other", "graph": "blue", "compiled": "green"}


def step_times(
    model: str, backends: Mapping[str, Mapping[int, float]], limits: tuple[float, float], used: str, name: str
) -> str:
    """Draw milliseconds against tokens in the call, a line a backend.

    Args:
        model: "draft" or a precision.
        backends: backend → tokens → milliseconds.
        limits: least and most milliseconds of all models, so that their plots compare.
        used: the backend that the replay charged.
        name: of the plot.
    """

    def paint(figure: Figure) -> None:
        plot = axes(figure, 36, 30, 70, 40)
        plot.set_yscale("log")
        plot.set_xlim(0, 1 + max(17, *(width for times in backends.values() for width in times)))
        plot.set_ylim(limits[0] / 1.5, limits[1] * 1.5)
        ends = []
        for marker, (backend, times) in zip(MARKERS, backends.items(), strict=False):
            widths = sorted(times)
            role = ROLES.get(backend, "ink")
            line = [times[width] for width in widths]
            plot.plot(widths, line, color=colour(role), linewidth=1.6, marker=marker, markersize=4.5)
            ends.append(End(widths[-1], line[-1], backend, role, "bold" if backend == used else "normal"))
        label_ends(plot, ends)
        plot.set_xticks([1, 5, 9, 13, 17])
        plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plot.yaxis.set_minor_locator(NullLocator())
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        plot.yaxis.set_minor_formatter(NullFormatter())
        plot.set_xlabel("q, tokens in one forward")
        plot.set_title(f"{model}, milliseconds", x=-0.14)

    return render(name, f"{model}: milliseconds of one forward by tokens in it, per backend", WIDTH, HEIGHT, paint)
