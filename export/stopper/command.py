"""`python -m export stopper`: fits the acceptance model on traces, validates it, writes its package."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.package_folder import check_destination, replacing
from export.stopper.card import measured_lines
from export.stopper.dataset import WALKS, Traces, folds, training_rows
from export.stopper.evaluation import FOLDS, SIGNALS, Replayed, Validation, cross_validate
from export.stopper.fit import fit
from export.stopper.package import FILES, check_parity, package_files
from runtime.commands.arguments import LARGEST_SEED, whole_number
from runtime.contract import PRECISIONS, STOPPER_NAME
from runtime.errors import SpeckvError
from runtime.policies.step_times import BACKENDS, StepTimes, read_all_step_times, read_step_times
from runtime.replay.traces import Text
from runtime.terminal import open_console

EXAMPLE = """example:
  python -m export stopper --traces profiles/train/fp16.npz profiles/train/nf4.npz \\
      --step-times profiles/train/step_times_ms.json --output build/stopper"""


def main(argv: Sequence[str]) -> int:
    """Fit, validate, package; return 0.

    Raises:
        SpeckvError: on bad input; nothing is written then.
    """
    options = _parser().parse_args(argv)
    folder: Path = options.output.resolve()
    check_destination(folder, STOPPER_NAME, FILES)
    files = [Traces.read(path) for path in options.traces]
    replayed = list(_replayed(files, options.step_times))
    _check_texts([text for traces in files for text in traces.texts])
    summary = _export(files, replayed, folder, options.seed)
    print(json.dumps(summary, indent=2)) if options.json else _print_table(summary)
    return 0


def _check_texts(texts: Sequence[Text]) -> None:
    if len({text.key for text in texts}) < FOLDS:
        raise SpeckvError(f"--traces hold fewer than {FOLDS} prompts: cross-validation needs more")
    if max(text.positions for text in texts) < 2:
        raise SpeckvError("--traces hold no text of two tokens, and so none to draft: profile with longer outputs")


def _export(files: list[Traces], replayed: list[Replayed], folder: Path, seed: int) -> dict[str, Any]:
    texts = sum(len(traces.texts) for traces in files)
    with _progress() as task:
        rows = training_rows(files, seed, task("walking the texts", WALKS * texts))
        done = task("fitting", len(SIGNALS) * FOLDS + 1)
        validations = cross_validate(rows, folds(files, FOLDS, seed), replayed, seed, done)
        weights = fit(rows, seed)
        done()
    training = {"seed": seed, "decisions": len(rows.features), "traces": [traces.source() for traces in files]}
    hashes = [sha256 for traces in files for sha256 in (traces.sha256, traces.verified_sha256) if sha256]
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    with replacing(folder, STOPPER_NAME, FILES) as staging:
        performance = _performance(validations, replayed)
        for name, data in package_files(weights, digest, training, performance).items():
            (staging / name).write_bytes(data)
        performance["parity"] = check_parity(staging, weights, rows)
        for name, data in package_files(weights, digest, training, performance).items():
            (staging / name).write_bytes(data)
    return {"folder": str(folder), "training": training, "performance": performance}


def _performance(validations: Sequence[Validation], replayed: Sequence[Replayed]) -> dict[str, Any]:
    chosen = validations[-1].calibration
    return {
        "folds": FOLDS,
        "replayed": [f"{part.traces.path.stem} {part.backend}" for part in replayed],
        "signals": [
            {
                "signals": validation.signals,
                "log_loss": validation.calibration.log_loss,
                "calibration_error": validation.calibration.error,
                "ratios": validation.ratios,
            }
            for validation in validations
        ],
        "calibration_error": chosen.error,
        "reliability": chosen.reliability,
        "parity": 0.0,
    }


def _replayed(files: Sequence[Traces], step_times: Path) -> Iterator[Replayed]:
    first = 0
    for traces in files:
        found = set(re.split(r"[^a-z0-9]+", traces.path.stem.lower())) & set(PRECISIONS)
        if len(found) != 1:
            raise SpeckvError(f"{traces.path}: the name does not say one precision of {', '.join(PRECISIONS)}")
        yield from (Replayed(traces, first, *timed) for timed in _times(step_times, found.pop()))
        first += len(traces.texts)


def _times(path: Path, precision: str) -> list[tuple[str, StepTimes]]:
    """Return the step times of every backend that the file has for the draft and the precision."""
    known = read_all_step_times(path)
    common = [backend for backend in BACKENDS if all(backend in known.get(model, {}) for model in ("draft", precision))]
    if not common:
        raise SpeckvError(f"{path}: no step times of '{precision}' and the draft on one backend: profile it")
    return [(backend, read_step_times(path, precision, backend)) for backend in common]


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Yield a function that begins a part of so many pieces, and returns what to call after each."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=open_console(stderr=True)) as bar:

        def begin(part: str, pieces: int) -> Callable[[], None]:
            number = bar.add_task(part, total=pieces)
            return lambda: bar.advance(number)

        yield begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export stopper",
        description="Fit the acceptance model of the adaptive policy on traces that `runtime profile` wrote.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--traces", type=Path, nargs="+", required=True, metavar="NPZ")
    parser.add_argument("--step-times", type=Path, required=True, metavar="JSON", help="for the replays that validate")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR",
                        help=f"the package folder to write or replace (shipped: models/{STOPPER_NAME})")  # fmt: skip
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=42, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON summary on stdout instead of a table")
    return parser


def _print_table(summary: dict[str, Any]) -> None:
    performance = summary["performance"]
    table = Table("", *(row["signals"] for row in performance["signals"]))
    table.title = f"cross-validation in {FOLDS} folds; ratios to the best fixed gamma in hindsight"
    for line in measured_lines(performance):
        table.add_row(*line)
    open_console().print(table)
    print(summary["folder"])
