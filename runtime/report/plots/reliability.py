"""Predicted against observed acceptance."""

from __future__ import annotations

from matplotlib.figure import Figure

from runtime.report.drawing import WIDTH, axes, colour, render
from runtime.report.reliability import Reliability

HEIGHT = 370


def reliability(curve: Reliability, name: str) -> str:
    """Draw the reliability curve, and below it how many predictions each point stands for."""

    def paint(figure: Figure) -> None:
        predicted = [row.predicted for row in curve.bins]
        plot = axes(figure, 44, 48, 20, 100)
        plot.plot([0, 1], [0, 1], color=colour("faint"), linewidth=1.2, linestyle=(0, (4, 3)))
        plot.text(0.99, 0.53, "predictions come true", color=colour("muted"), ha="right")
        plot.plot(
            predicted, [row.observed for row in curve.bins], color=colour("blue"), linewidth=1.6, marker="o",
            markersize=6, markeredgecolor=colour("surface"),
        )  # fmt: skip
        error = f"expected calibration error {curve.expected_calibration_error:.3f}"
        plot.text(0.02, 0.95, error, color=colour("blue"), weight="bold")
        plot.set_xlim(0, 1)
        plot.set_ylim(0, 1.02)
        plot.set_xticks([0, 0.25, 0.5, 0.75, 1], [])
        plot.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        figure.text(0, 1 - 12 / HEIGHT, curve.package, color=colour("ink"), weight="bold", fontsize=12)
        figure.text(0, 1 - 34 / HEIGHT, "observed acceptance", color=colour("muted"))
        counts = axes(figure, 44, HEIGHT - 90, 20, 40)
        counts.vlines(predicted, 0, [row.count for row in curve.bins], color=colour("other"), linewidth=7)
        counts.set_xlim(0, 1)
        counts.set_ylim(0)
        counts.set_yticks([])
        counts.spines["left"].set_visible(False)
        counts.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        counts.set_xlabel("predicted acceptance; bars: how many predictions")

    label = f"{curve.package}: observed against predicted acceptance"
    return render(name, label, WIDTH, HEIGHT, paint)
