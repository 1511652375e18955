"""The page of a report: self-contained HTML that needs neither a network nor a script."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files

from runtime.policies.step_times import BACKENDS
from runtime.prompts import OVERALL
from runtime.report import tables
from runtime.report.drawing import FONTS, variables
from runtime.report.plots.acceptance import conditional, survival
from runtime.report.plots.course import course
from runtime.report.plots.rates import rates, ratios
from runtime.report.plots.reliability import reliability
from runtime.report.plots.step_times import step_times
from runtime.report.plots.tradeoff import tradeoff
from runtime.report.summary import HIGHLIGHTED, ORACLE, PUBLISHED, Replayed, Summary, rate_text


def page(summary: Summary) -> str:
    """Return the page as HTML that is also well-formed XML."""
    sections = (
        _header, _rates, _tradeoff, _course, _acceptance, _step_times, _reliability, _paper, _inputs,
    )  # fmt: skip
    body = "\n\n".join(section(summary) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta name="generator" content="{summary.made_by}"/>\n'
        f"<title>Speculation length, replayed</title>\n<style>\n{_css()}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _css() -> str:
    # Light on paper, whatever the screen.
    return (
        f":root {{ --fonts: {FONTS}; {variables(dark=False)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}\n"
        + files("runtime.report").joinpath("page.css").read_text(encoding="utf-8")
    )


def _header(summary: Summary) -> str:
    prompts = sum(replayed.prompts for replayed in summary.replays)
    tokens = sum(replayed.tokens for replayed in summary.replays)
    cards = "\n".join(_card(replayed, summary.backend) for replayed in summary.replays)
    return (
        "<header>\n<h1>Speculation length, replayed</h1>\n"
        '<p class="lead">How many tokens should a draft model propose before the target verifies them? '
        f"Every policy below decoded the same {prompts:,} traced outputs ({tokens:,} tokens), exactly and greedily: "
        "all of them write the same text, and differ only in the time it takes.</p>\n"
        f'<p class="note">A step costs its measured step times ({escape(summary.backend)}) and the policy’s own '
        "decisions, as far as the models wait for them. Every tok/s and every ratio on this page counts those: "
        f"Python’s processor time on one thread of {escape(summary.processor)}, measured while this report was made. "
        "Nothing else here is measured anew.</p>\n"
        f'<div class="cards">\n{cards}\n</div>\n</header>'
    )


def _card(replayed: Replayed, backend: str) -> str:
    best = replayed.best_fixed_policy
    chosen = replayed.featured or best
    others = [policy for name in (PUBLISHED, ORACLE) if (policy := replayed.policy(name)) and policy is not chosen]
    fastest = chosen is not best and chosen.name.partition(":")[0] != HIGHLIGHTED
    kind = ", the fastest rule here" if fastest else ""
    rest = " · ".join(f"{escape(policy.name)} <b>{policy.ratio.value:.2f}×</b>" for policy in others)
    ratio = chosen.ratio
    return (
        f'<div class="card"><p class="of">{escape(replayed.precision)} target, {escape(backend)}</p>'
        f'<p class="figure">{ratio.value:.2f}×</p>'
        f"<p><b>{escape(chosen.name)}</b>{kind}: {rate_text(chosen.tokens_per_second.value)} tok/s, against "
        f"{rate_text(best.tokens_per_second.value)} tok/s of the best fixed gamma in hindsight "
        f"(γ&#160;=&#160;{replayed.best_fixed[OVERALL]}). 95&#160;% interval: {ratio.low:.2f}&#160;–&#160;"
        f"{ratio.high:.2f}×.</p>" + (f'<p class="others">{rest}</p>' if rest else "") + "</div>"
    )


def _rates(summary: Summary) -> str:
    caption = (
        "Further right is faster. A point is the figure of all prompts, its bar the 95 % interval. The bars of the "
        "first plot are wide because prompts differ; those of the second compare policies on the same prompts: a bar "
        "that does not touch the dashed line is a difference. An arrow marks an oracle beyond that scale."
    )
    parts = [
        f"<h3>{_title(summary, replayed)}</h3>\n"
        + _figure([rates(replayed, f"rates{index}"), ratios(replayed, f"ratios{index}")], "" if index else caption)
        + tables.policies(replayed)
        for index, replayed in enumerate(summary.replays)
    ]
    return _section(
        "Tokens per second",
        "Each policy against the fixed gamma that turned out best for all prompts together, and against an oracle that "
        "knows in advance how much will be accepted, but of its second choices nothing. The intervals are a paired "
        "bootstrap over prompts, the best gamma held. The ratios per task are to the gamma that is best for that task "
        "alone.",
        *parts,
    )


def _tradeoff(summary: Summary) -> str:
    plots = [tradeoff(replayed, f"tradeoff{index}") for index, replayed in enumerate(summary.replays)]
    return _section(
        "Tokens per step are not tokens per second",
        "The published objective counts the tokens that a step commits. The clock also counts what drafting them took.",
        _figure(
            plots,
            "Along the line gamma is fixed and grows: tokens per step go on rising while tokens per second, past the "
            "best gamma, fall. A policy above the line turns as many tokens per step into more speed; one to the right "
            "of the best gamma and below it commits more tokens a step and is slower.",
        ),
    )


def _course(summary: Summary) -> str:
    replayed = summary.replays[0]
    followed = replayed.course
    plots = [course(followed, name, f"course{index}") for index, name in enumerate(followed.steps)]
    keys = (("blue", "drafted and accepted"), ("vermilion", "drafted in vain"), ("faint", "would have been accepted"))
    words = ", ".join(f'<span class="key" style="background: var(--{role})"></span>{text}' for role, text in keys)
    return _section(
        "Gamma over the course of one output",
        f"The same text under several policies: prompt {escape(followed.key)}, {escape(replayed.precision)} target, "
        f"{len(followed.accepted)} tokens; of the longer half of the prompts, the one of median acceptance.",
        _figure(
            plots,
            "Each bar is a step: as wide as the tokens it commits (the accepted ones and one more, or two where the "
            "draft's second choice was verified, too, and stands), as high as the tokens it drafts. "
            f"{words}. Wide bars are few steps; orange is time lost, grey a chance missed.",
        ),
    )


def _acceptance(summary: Summary) -> str:
    caption = (
        "First, of the drafts that were right so far, the share whose next token is right too: where it rises, a draft "
        "that got this far is likely to go on. Second, the share right up to and with a place. Every position of every "
        "output starts one draft."
    )
    parts = []
    for index, replayed in enumerate(summary.replays):
        plots = [conditional(replayed, f"conditional{index}"), survival(replayed, f"survival{index}")]
        parts.append(f"<h3>{_title(summary, replayed)}</h3>\n{_figure(plots, '' if index else caption)}")
    return _section(
        "Acceptance along the draft",
        "Tasks differ in how often the draft is right, and so in how far it pays to draft.",
        *parts,
    )


def _step_times(summary: Summary) -> str:
    all_times = [ms for backends in summary.step_times.values() for times in backends.values() for ms in times.values()]
    limits = min(all_times), max(all_times)
    plots = [
        step_times(
            model, {b: backends[b] for b in backends if b in BACKENDS}, limits, summary.backend, f"times-{model}"
        )
        for model, backends in summary.step_times.items()
    ]
    return _section(
        "What a step costs",
        "One forward of the draft, and one of the target that verifies q tokens at once.",
        _figure(
            plots,
            f"Measured milliseconds on a logarithmic scale, the same in every panel; {escape(summary.backend)} is what "
            "this replay charged. Where a line is flat, verifying more tokens is nearly free, and only drafting them "
            "costs.",
        ),
    )


def _reliability(summary: Summary) -> str:
    plots = [reliability(curve, f"reliability{index}") for index, curve in enumerate(summary.reliability)]
    if not plots:
        return _section(
            "Reliability of the acceptance model",
            "Left out: no installed model package holds a reliability curve (<code>performance.reliability</code> in "
            "its <code>config.json</code>).",
        )
    names = ", ".join(escape(curve.package) for curve in summary.reliability)
    return _section(
        "Reliability of the acceptance model",
        f"Whether a predicted probability can be believed: {names}, as its package measured it.",
        _figure(
            plots,
            "On the diagonal, tokens given a probability are accepted that often; below it, the model is too sure. The "
            "expected calibration error is the mean distance from the diagonal.",
        ),
    )


def _paper(summary: Summary) -> str:
    performance = summary.predictor
    if not performance:
        return _section("The paper’s tables, reproduced", "Left out: the installed predictor is not fitted on them.")
    chosen = performance["chosen_gamma"]
    longest = max(chosen, key=int)
    held_out = performance["held_out"]
    return _section(
        "The paper’s tables, reproduced",
        "SpecKV (Shukla 2026, arXiv 2605.02888) on its own published step records, recomputed: "
        f"{performance['scored_rows']:,} held-out records, mean squared error {held_out['mse']:.5f}, correlation "
        f"{held_out['correlation']:.5f}. Scored by {escape(performance['scored_by'])}; tokens per step, not time.",
        tables.paper_policies(performance),
        f"<p>SpecKV-fast, the shipped predictor, chooses γ = {longest} on "
        f"{chosen[longest] / sum(chosen.values()):.0%} of these steps.</p>",
        tables.paper_tasks(performance),
    )


def _inputs(summary: Summary) -> str:
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in summary.versions.items())
    return (
        f"<footer>\n<h2>Where this comes from</h2>\n<pre><code>{escape(summary.command)}</code></pre>\n"
        f"<p>{versions}. The numbers behind every plot are in <code>replay.json</code> beside this page.</p>\n"
        f"{tables.inputs(summary.inputs)}\n</footer>"
    )


def _section(title: str, lead: str, *parts: str) -> str:
    body = "\n".join(parts)
    return f"<section>\n<h2>{title}</h2>\n<p>{lead}</p>\n{body}\n</section>"


def _figure(plots: Iterable[str], caption: str) -> str:
    """Return plots with the sentence that says how to read them; none where the figure before has said it."""
    drawn = "\n".join(plots)
    how_to_read = f"<figcaption>{caption}</figcaption>\n" if caption else ""
    return f'<figure>\n<div class="plots">\n{drawn}\n</div>\n{how_to_read}</figure>'


def _title(summary: Summary, replayed: Replayed) -> str:
    """Return what tells the replays apart: the precision, with the file's name where that is not enough."""
    alike = [other for other in summary.replays if other.precision == replayed.precision]
    name = f", {escape(replayed.traces)}" if len(alike) > 1 else ""
    return f"{escape(replayed.precision)} target{name}"
