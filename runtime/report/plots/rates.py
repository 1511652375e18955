"""Tokens per second of every policy, and their ratio to the best fixed gamma, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.prompts import OVERALL
from runtime.report.bootstrap import Interval
from runtime.report.drawing import WIDTH, axes, colour, render, standalone
from runtime.report.folder import MADE_BY
from runtime.report.plots.marks import look, mark
from runtime.report.summary import ORACLE, PolicyFigures, Replayed, rate_text

ROW, TOP, BOTTOM = 21, 26, 40
"""Pixels: of a policy's row, above and below all rows."""
MARGIN, TITLE = 14, 22
"""Pixels: beside the panels of the file, and above them."""
NAMES, VALUES = 102, 44
"""Pixels: left and right of the plot."""

Pick = Callable[[PolicyFigures], Interval]


def rates(replayed: Replayed, name: str) -> str:
    """Draw tokens per second."""
    label = f"{replayed.precision}: tokens per second of each policy with 95 % intervals"
    return render(
        name, label, WIDTH, height(replayed), lambda figure: _panel(axes(figure, NAMES, TOP, VALUES, BOTTOM), replayed)
    )


def ratios(replayed: Replayed, name: str) -> str:
    """Draw the ratio to the best fixed gamma."""
    label = f"{replayed.precision}: each policy's tokens per second over those of the best fixed gamma"

    def paint(figure: Figure) -> None:
        plot = axes(figure, NAMES, TOP, VALUES, BOTTOM)
        _intervals(plot, replayed, lambda policy: policy.ratio, lambda ratio: f"{ratio:.2f}×")
        _leave_out_oracle(plot, replayed)
        plot.set_xlabel("ratio to the best fixed gamma")

    return render(name, label, WIDTH, height(replayed), paint)


def rates_file(replays: list[Replayed]) -> str:
    """Draw tokens per second of all files of traces side by side, as an SVG file of its own."""
    width = MARGIN + (WIDTH + MARGIN) * len(replays)
    tall = TITLE + max(height(replayed) for replayed in replays)

    def paint(figure: Figure) -> None:
        for index, replayed in enumerate(replays):
            left = MARGIN + index * (WIDTH + MARGIN)
            below = tall - TITLE - height(replayed)
            right = width - left - WIDTH
            plot = axes(figure, left + NAMES, TITLE + TOP, right + VALUES, below + BOTTOM)
            _panel(plot, replayed)
            title: dict[str, Any] = {"color": colour("ink"), "fontsize": 13, "weight": "bold"}
            figure.text(left / width, 1 - 24 / tall, f"{replayed.precision} target", **title)

    label = "Tokens per second of every policy, per precision of the target"
    return standalone(render("rates.svg", label, width, tall, paint), width, tall, f"made by {MADE_BY}")


def height(replayed: Replayed) -> int:
    """Return the pixels that the rows of all policies take."""
    return TOP + ROW * len(replayed.policies) + BOTTOM


def _panel(plot: Axes, replayed: Replayed) -> None:
    _intervals(plot, replayed, lambda policy: policy.tokens_per_second, rate_text)
    plot.set_xlabel("tokens per second")


def _intervals(plot: Axes, replayed: Replayed, pick: Pick, text: Callable[[float], str]) -> None:
    """Draw a row a policy, the fastest on top: a point, its interval and its figure."""
    policies = sorted(replayed.policies, key=lambda policy: policy.tokens_per_second.value)
    best = pick(replayed.best_fixed_policy).value
    plot.axvline(best, color=colour("ink"), linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    gamma = replayed.best_fixed[OVERALL]
    plot.annotate(
        f"best fixed, γ = {gamma}", (best, 1), (0, 6), xycoords=plot.get_xaxis_transform(),
        textcoords="offset points", ha="center", color=colour("ink"), weight="bold",
    )  # fmt: skip
    for row, policy in enumerate(policies):
        figures, looks = pick(policy), look(replayed, policy.name)
        role = "muted" if looks.role == "other" else looks.role
        plot.plot([figures.low, figures.high], [row, row], color=colour(looks.role), linewidth=3, alpha=0.5)
        plot.plot([figures.value], [row], linestyle="none", **mark(looks))
        plot.annotate(
            text(figures.value), (1, row), (VALUES - 4, 0), xycoords=plot.get_yaxis_transform(),
            textcoords="offset points", ha="right", va="center", color=colour(role), weight=looks.weight,
        )  # fmt: skip
    plot.set_yticks(range(len(policies)), [policy.name for policy in policies])
    for tick, policy in zip(plot.get_yticklabels(), policies, strict=True):
        looks = look(replayed, policy.name)
        tick.set_color(colour("ink" if looks.role == "other" else looks.role))
        tick.set_fontweight(looks.weight)
    plot.set_ylim(-0.6, len(policies) - 0.4)
    plot.margins(x=0.06)
    plot.locator_params(axis="x", nbins=5)
    plot.spines["left"].set_visible(False)
    plot.grid(axis="y", linewidth=0.6)


def _leave_out_oracle(plot: Axes, replayed: Replayed) -> None:
    """Scale the axis so that the intervals can be seen, with the oracle off to the right."""
    others = [policy.ratio for policy in replayed.policies if policy.name != ORACLE]
    oracle = replayed.policy(ORACLE)
    low, high = min(ratio.low for ratio in others), max(ratio.high for ratio in others)
    margin = 0.06 * (high - low or 1)
    plot.set_xlim(low - margin, high + 2 * margin)
    if oracle and oracle.ratio.value > high + 2 * margin:
        row = sum(policy.tokens_per_second.value < oracle.tokens_per_second.value for policy in replayed.policies)
        plot.annotate(
            "→", (1, row), (0, 0), xycoords=plot.get_yaxis_transform(), textcoords="offset points",
            ha="right", va="center", color=colour("green"),
        )  # fmt: skip
