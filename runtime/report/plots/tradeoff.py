"""Tokens per step against tokens per second: where the published objective and the clock part ways."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.prompts import OVERALL
from runtime.report.drawing import WIDTH, axes, colour, render
from runtime.report.plots.marks import End, label_ends, look, mark
from runtime.report.summary import Replayed

HEIGHT = 370
NAMED_GAMMAS = (0, 1, 2, 3, 4, 6, 8, 12, 16)


def tradeoff(replayed: Replayed, name: str) -> str:
    """Draw every policy as a point and the fixed gammas as a line."""

    def paint(figure: Figure) -> None:
        plot = axes(figure, 40, 48, 104, 40)
        _fixed_line(plot, replayed)
        _policies(plot, replayed)
        plot.set_xlabel("tokens per step")
        figure.text(0, 1 - 12 / HEIGHT, f"{replayed.precision} target", color=colour("ink"), weight="bold", fontsize=12)
        figure.text(0, 1 - 34 / HEIGHT, "tokens per second", color=colour("muted"))

    label = f"{replayed.precision}: tokens per step against tokens per second of each policy and fixed gamma"
    return render(name, label, WIDTH, HEIGHT, paint)


def _fixed_line(plot: Axes, replayed: Replayed) -> None:
    steps = [point.tokens_per_step for point in replayed.fixed]
    rates = [point.tokens_per_second for point in replayed.fixed]
    plot.plot(steps, rates, color=colour("ink"), linewidth=1.2, marker="o", markersize=3)
    for point in replayed.fixed:
        beside_best = point.gamma == replayed.best_fixed[OVERALL] + 1  # its label would hit the best one's
        if point.gamma in NAMED_GAMMAS and not beside_best:
            text = "γ = 0" if not point.gamma else str(point.gamma)
            rising = point.gamma <= replayed.best_fixed[OVERALL]
            plot.annotate(
                text, (point.tokens_per_step, point.tokens_per_second), (3, -13) if rising else (-6, -4),
                textcoords="offset points", ha="center" if rising else "right", color=colour("ink"), fontsize=10,
            )  # fmt: skip


def _policies(plot: Axes, replayed: Replayed) -> None:
    policies = [
        policy for policy in replayed.policies if policy.name != "none" and not policy.name.startswith("fixed:")
    ]
    ends = []
    for policy in [*policies, replayed.best_fixed_policy]:
        looks = look(replayed, policy.name)
        x, y = policy.tokens_per_step, policy.tokens_per_second.value
        plot.plot([x], [y], linestyle="none", zorder=4, **mark(looks))
        role = "muted" if looks.role == "other" else looks.role
        ends.append(End(x, y, policy.name, role, looks.weight))
    plot.margins(x=0.08, y=0.08)
    low, high = plot.get_xlim()
    plot.set_xlim(low, high)
    plot.set_ylim(*plot.get_ylim())
    label_ends(plot, ends, column=high + 0.03 * (high - low))
