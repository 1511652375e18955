"""What an export prints: tables for people, one JSON object for machines."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from export.predictor.contents import Figures
from export.predictor.parity import TOLERANCE, Parity
from runtime.errors import printable


def summary(folder: Path, files: dict[str, bytes], parity: Parity, refit: Figures | None) -> dict[str, Any]:
    """Return the `--json` object: files written, parity found, and the figures of a refit or null."""
    return {
        "output": str(folder),
        "files": [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
        "parity": {**asdict(parity), "largest_difference": parity.largest, "tolerance": TOLERANCE},
        "refit": asdict(refit) if refit else None,
    }


def print_tables(console: Console, values: dict[str, Any], known: bool) -> None:
    """Print a `summary`; `known` says whether the package carries figures."""
    if values["refit"]:
        _print_refit(console, values["refit"]["training"], values["refit"]["performance"])
    elif not known:
        console.print(
            "How well this pickle predicts is not known: its card says so. `--records` measures it.", soft_wrap=True
        )
    files = Table("file", "bytes", "sha256", title=printable(values["output"]), title_justify="left")
    for file in values["files"]:
        files.add_row(file["name"], f"{file['size']:,}", file["sha256"][:16])
    console.print(files)
    parity = values["parity"]
    console.print(
        f"parity on {parity['rows']:,} rows with {parity['reference']}: largest difference "
        f"{parity['largest_difference']:.2e} (allowed {parity['tolerance']:g}); gamma is the "
        f"published loop's on every row but {parity['gamma_ties']} exact ties",
        highlight=False,
        soft_wrap=True,
    )


def _print_refit(console: Console, training: dict[str, Any], figures: dict[str, Any]) -> None:
    split = training["held_out_split"]
    console.print(
        f"{training['records']:,} records; on {split['test']:,} held out: mean squared error "
        f"{figures['held_out']['mse']:.5f}, correlation {figures['held_out']['correlation']:.5f}",
        highlight=False,
        soft_wrap=True,
    )
    compressions = list(figures["fixed_best_gamma"])
    policies = Table("policy", *compressions, "overall", "95 % interval", title="expected tokens per step",
                     title_justify="left")  # fmt: skip
    for name, policy in figures["tokens_per_step"].items():
        by_compression = [f"{policy['by_compression'][compression]:.2f}" for compression in compressions]
        policies.add_row(name, *by_compression, f"{policy['mean']:.3f}", f"{policy['low']:.3f} to {policy['high']:.3f}")
    console.print(policies)
    tasks = Table("compression", "task", "Fixed-4", "SpecKV", "improvement %")
    for row in figures["by_task"]:
        numbers = f"{row['fixed_4']:.2f}", f"{row['speckv']:.2f}", f"{row['improvement_percent']:.1f}"
        tasks.add_row(row["compression"], row["task"], *numbers)
    console.print(tasks)
    test, scored = figures["paired_bootstrap"], figures["scored_rows"]
    shares = ", ".join(f"{gamma}: {count / scored:.0%}" for gamma, count in figures["chosen_gamma"].items())
    console.print(
        f"SpecKV over fixed-4: {figures['speckv_over_fixed_4_percent']:+.2f} %, mean difference "
        f"{test['mean_difference']:.3f}, p = {test['p_value']:g} ({test['resamples']:,} paired resamples)\n"
        f"gamma chosen: {shares}. Scored by {figures['scored_by']}.",
        highlight=False,
        soft_wrap=True,
    )
