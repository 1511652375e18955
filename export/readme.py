"""`python -m export readme`: the README's headline and tables, written from measured results."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.artifacts import package_folder
from runtime.contract import CONFIG_FILE
from runtime.errors import SpeckvError
from runtime.files import replacing_file
from runtime.prompts import OVERALL
from runtime.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "results"
MARKER = re.compile(r"(<!-- made by `python -m export readme`: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the marked parts of README.md in place."""
    parser = argparse.ArgumentParser(
        prog="python -m export readme",
        description="Write the README's tables from results/ and models/.",
        epilog="example:\n  python -m export readme",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args(argv)
    before = README.read_text(encoding="utf-8")
    after = fill(before)
    with replacing_file(README) as unfinished:
        unfinished.write_text(after, encoding="utf-8")
    print("README.md is up to date" if after == before else "README.md rewritten")
    return 0


def fill(text: str) -> str:
    """Return `text` with every marked part made anew.

    Raises:
        SpeckvError: for a marker without a table, or a results file that is missing.
    """

    def part(match: re.Match[str]) -> str:
        name = match[2]
        if name not in PARTS:
            raise SpeckvError(f"README.md asks for the part '{name}': there are {', '.join(PARTS)}")
        content = PARTS[name]()
        return match[1] + (f"{content}\n" if content else "") + match[3]

    return MARKER.sub(part, text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left and the others right aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def result(name: str) -> dict[str, Any]:
    """Read `results/NAME.json`.

    Raises:
        SpeckvError: if it is missing.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise SpeckvError(f"{path} is missing: results/README.md has the command that makes it")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def headline() -> str:
    """The one sentence with a number."""
    timings = {timing["name"]: timing["median"] for timing in result("latency")["decision_us"]}
    graph, loop = timings["decision graph"], timings["sklearn, 4 x predict"]
    batched = next(median for name, median in timings.items() if "rows in one call" in name)
    return (
        f"**The portable controller of speculation length for speculative decoding: one decision in {graph:.0f} µs "
        f"({batched:.1f} µs in a batch), {loop / graph:.0f} ({loop / batched:.0f}) times faster than the published "
        "scikit-learn loop and equal to it.**"
    )


def latency() -> str:
    """One decision, side by side."""
    return (
        f"{_latency('latency', 'One decision on one thread of')}\n\n"
        f"{_latency('latency_h200', 'The same beside one NVIDIA H200, on')}"
    )


def _latency(name: str, where: str) -> str:
    """One machine's decisions."""
    measured = result(name)
    timings = measured["decision_us"]
    slowest = timings[0]["median"]
    rows = [
        (t["name"], f"{t['median']:.1f}", f"{t['low']:.1f} – {t['high']:.1f}", f"{slowest / t['median']:.0f}×")
        for t in timings
    ]
    process, machine = measured["process"], measured["machine"]
    return (
        f"{where} {machine['processor']} (`python -m runtime latency`, onnxruntime "
        f"{machine['onnxruntime']}):\n\n"
        + table(("", "median, µs", "10th – 90th percentile", "faster"), rows)
        + f"\n\nA fresh process makes its first decision after {process['seconds']:.2f} s and peaks at "
        f"{process['peak_megabytes']:.0f} MB."
    )


def predictor() -> str:
    """How well the shipped predictor predicts, and what the published evaluation makes of it."""
    config = json.loads((package_folder() / CONFIG_FILE).read_text(encoding="utf-8"))
    measured = config["performance"]
    policies = measured["tokens_per_step"].items()
    rows = [(name, f"{policy['mean']:.3f}", f"{policy['low']:.3f} – {policy['high']:.3f}") for name, policy in policies]
    chosen = measured["chosen_gamma"]
    longest = max(chosen, key=int)
    held_out, split = measured["held_out"], config["training"]["held_out_split"]
    return (
        f"The predictor, refitted on {config['training']['records']:,} published step records: mean squared error "
        f"{held_out['mse']:.5f} and correlation {held_out['correlation']:.5f} on {split['test']:,} held-out ones. "
        "Expected tokens per step, the paper's policy table:\n\n"
        + table(("policy", "mean", "95 % bootstrap interval"), rows)
        + f"\n\nSpecKV-fast, the shipped predictor, chooses gamma = {longest} on "
        f"{chosen[longest] / sum(chosen.values()):.0%} of these steps. {measured['scored_by'].capitalize()}."
    )


def drafter() -> str:
    """How often the shipped drafter is right."""
    config = json.loads((package_folder("smollm2-drafter") / CONFIG_FILE).read_text(encoding="utf-8"))
    agreement = config["agreement"]
    rows = [(task, f"{share:.3f}") for task, share in {"all": agreement["overall"], **agreement["tasks"]}.items()]
    return (
        f"The embedded draft, {config['num_layers']} layers for {config['target']['name']}: share of the target's "
        f"{agreement['tokens']:,} greedy tokens on held-out prompts that are the drafter's first choice.\n\n"
        + table(("prompts", "agreement"), rows)
    )


def precisions() -> str:
    """What compressing the target costs and changes, a table for each device."""
    rows = [row for path in sorted(RESULTS.glob("precisions_*.json")) for row in read_rows(path, "precisions")]
    return "\n\n".join(_precisions(same) for same in _alike(rows, ("target", "draft", "device", "threads", "waiting")))


def _precisions(rows: list[dict[str, Any]]) -> str:
    """One device's precisions."""
    first = rows[0]
    widths = ("eager1", "eager5", "eager9", "eager17")
    cells = [
        (
            row["precision"],
            f"{row['weight_bytes'] / 1e6:.0f}",
            *(f"{row['target_ms'][width]:.0f}" for width in widths),
            f"{row['agreement']:.1%}",
            f"{row['perplexity']:.2f}",
        )
        for row in rows
    ]
    tokens = (f"q = {width.removeprefix('eager')}, ms" for width in widths)
    compared = sorted({row["tokens"] for row in rows})  # a text may end early
    threads = f"{first['threads']} CPU threads, " if "threads" in first else ""
    return (
        f"{first['target']} in each precision on {first['device']} ({threads}one draft forward: "
        f"{first['draft_ms']:.0f} ms): one eager forward on q tokens, agreement of the loop with token-by-token greedy "
        f"decoding over {' to '.join(map(str, compared))} tokens, perplexity on a fixed text.\n\n"
        + table(("target", "weights, MB", *tokens, "agreement", "perplexity"), cells)
    )


def _alike(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return the rows in groups that say the same of `names`, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.get(name) for name in names]), []).append(row)
    return list(groups.values())


def replay() -> str:
    """Tokens per second of every policy, replayed; nothing while no replay has been kept."""
    if not (RESULTS / "replay.json").is_file():
        return ""
    measured = result("replay")
    if not (RESULTS / "rates.svg").is_file():
        raise SpeckvError(f"{RESULTS / 'rates.svg'} is missing: results/README.md has the command that makes it")
    replays = measured["replays"]
    names = dict.fromkeys(policy["name"] for replayed in replays for policy in replayed["policies"])
    columns = [{policy["name"]: policy for policy in replayed["policies"]} for replayed in replays]
    fastest = sorted(names, key=lambda name: -max(_value(column, name) for column in columns))
    header = [f"{replayed['precision']}, {what}" for replayed in replays for what in ("tok/s", "ratio")]
    rows = [(name, *(cell for column in columns for cell in _rate_and_ratio(column.get(name)))) for name in fastest]
    best = ", ".join(f"{replayed['best_fixed']['overall']} for {replayed['precision']}" for replayed in replays)
    prompts = ", ".join(f"{replayed['prompts']} for {replayed['precision']}" for replayed in replays)
    return (
        f"Policies replayed exactly over traced greedy outputs (prompts: {prompts}) with {measured['backend']} step "
        "times: tokens per second with 95 % intervals (bootstrap over prompts), and the ratio to the fixed gamma that "
        f"is best in hindsight ({best}). Both count the policy's own time as far as the models wait for it (the loop "
        f"on graphs drafts a step's first token meanwhile), measured on {measured['processor']}.\n\n"
        "![Tokens per second of every policy](results/rates.svg)\n\n" + table(("policy", *header), rows)
    )


def _value(column: dict[str, Any], name: str) -> float:
    return float(column[name]["tokens_per_second"]["value"]) if name in column else 0.0


def _rate_and_ratio(policy: dict[str, Any] | None) -> tuple[str, str]:
    if policy is None:
        return "–", "–"
    rate, ratio = policy["tokens_per_second"], policy["ratio"]
    return f"{rate['value']:.1f} ({rate['low']:.1f} – {rate['high']:.1f})", f"{ratio['value']:.3f}"


def live() -> str:
    """Policies and other systems side by side, live, a table for each pair, device and length; without results nothing.

    What an interrupted run left is no result.
    """
    rows = [row for path in sorted(RESULTS.glob("live_*.json")) for row in read_rows(path, "bench") if row["complete"]]
    names = ("target", "draft", "device", "threads", "prompts", "max_new_tokens", "versions")
    return "\n\n".join(_live(same) for same in _alike(rows, names))


def _live(comparisons: list[dict[str, Any]]) -> str:
    """One device: its contenders in each precision."""
    names = dict.fromkeys(contender["name"] for comparison in comparisons for contender in comparison["contenders"])
    rows = [(name, *(cell for comparison in comparisons for cell in _live_cells(comparison, name))) for name in names]
    best = ", ".join(f"{comparison['precision']} {comparison['best_fixed'][OVERALL]}" for comparison in comparisons)
    loops = ", ".join(f"{comparison['precision']} {comparison['loop']}" for comparison in comparisons)
    header = (column for comparison in comparisons for column in (f"{comparison['precision']}, tok/s", "ratio"))
    first, versions = comparisons[0], comparisons[0]["versions"]
    loads = [comparison[when] for comparison in comparisons for when in ("load_average", "load_average_after")]
    return (
        f"{first['target']} with the draft `{first['draft']}` on {first['device']} ({first['threads']} CPU threads, "
        f"load average {min(loads)} to {max(loads)}), `python -m runtime bench`: {len(first['prompts'])} prompts, "
        f"{first['max_new_tokens']} new tokens, medians of up to {max(row['repeats'] for row in comparisons)} "
        f"interleaved repeats, torch {versions['torch']}, transformers {versions['transformers']}; the loop: {loops}. "
        f"Ratios are to the best fixed gamma of the same run ({best}), with 95 % bootstrap intervals over the "
        "prompts:\n\n" + table(("", *header), rows)
    )


def _live_cells(comparison: dict[str, Any], name: str) -> tuple[str, str]:
    score = next((c["scores"][OVERALL] for c in comparison["contenders"] if c["name"] == name), None)
    if score is None:
        return "–", "–"
    interval = score["ratio_interval"]
    between = "" if interval is None else f" ({interval[0]:.2f} – {interval[1]:.2f})"
    return f"{score['tokens_per_second']:.1f}", f"{score['ratio']:.2f}{between}"


def roofline() -> str:
    """The fast loop's calls beside what reading their bytes takes, a table for each device; without results nothing."""
    rows = [row for path in sorted(RESULTS.glob("roofline_*.json")) for row in read_rows(path, "roofline")]
    return "\n\n".join(_roofline(same) for same in _alike(rows, ("device",)))


def _roofline(rows: list[dict[str, Any]]) -> str:
    """One device's calls."""
    cells = [
        (
            row["pair"],
            row["precision"],
            f"{row['context']:,}",
            *(cell for call in ("draft", "verify") for cell in _call(row[call])),
            "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / row['expected_bytes']:.2f}",
        )
        for row in rows
    ]
    copied = max(row["copy_bytes_per_second"] for row in rows) / 1e12
    return (
        f"One draft forward and one verification of 5 tokens as CUDA graphs on {rows[0]['device']} "
        "(`python -m runtime roofline`; random weights in the shapes of the embedded pair, and of Llama-3.2-1B for "
        "3B), and how many times that is of reading the weights and the cache once, at the "
        f"{copied:.1f} TB/s of a copy; peak memory over weights and caches as computed:\n\n"
        + table(("pair", "target", "context", "draft, ms", "limit, ×", "verify, ms", "limit, ×", "memory"), cells)
    )


def _call(call: dict[str, float]) -> tuple[str, str]:
    return f"{call['ms']:.3f}", f"{call['times_limit']:.2f}"


def throughput() -> str:
    """Tokens per second against texts side by side, a table for each device and length; without results nothing."""
    rows = [row for path in sorted(RESULTS.glob("throughput_*.json")) for row in read_rows(path, "throughput")]
    return "\n\n".join(_throughput(same) for same in _alike(rows, ("target", "draft", "device", "max_new_tokens")))


def _throughput(rows: list[dict[str, Any]]) -> str:
    """One device: a line for each number of rows, a column for each policy."""
    first = rows[0]
    names = dict.fromkeys((row["precision"], row["policy"]) for row in rows)
    rates = {(row["precision"], row["policy"], row["rows"]): row for row in rows}
    cells = [
        (str(count), *(_throughput_cell(rates.get((*name, count))) for name in names))
        for count in sorted({row["rows"] for row in rows})
    ]
    return (
        f"{first['target']} with the draft `{first['draft']}` on {first['device']}, `python -m runtime throughput`: "
        f"tokens per second of {len(first['prompts'])} texts of {first['max_new_tokens']} tokens, prompts included, by "
        "how many are decoded side by side, and how many times the policy's own rate for one at a time:\n\n"
        + table(("texts at a time", *(f"{precision}, {policy}" for precision, policy in names)), cells)
    )


def _throughput_cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['tokens_per_second']:,.0f} ({row['ratio']:.1f}×)"


PARTS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "latency": latency,
    "predictor": predictor,
    "drafter": drafter,
    "precisions": precisions,
    "replay": replay,
    "live": live,
    "roofline": roofline,
    "throughput": throughput,
}
