"""`python -m export`: the predictor package from records or from a pickle, verified before it is written."""

from __future__ import annotations

import argparse
import json
import pickle  # nosec B403
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from export.onnx_file import DEFAULT_OPSET, OPSETS, check_opset
from export.package_folder import check_destination, replacing
from export.predictor.contents import FILES, Figures, known_figures, package_files
from export.predictor.evaluation import evaluate
from export.predictor.parity import ParityError, check_parity
from export.predictor.records import read_records
from export.predictor.report import print_tables, summary
from export.predictor.unpickler import PickledRegressor, parse_pickle, read_pickle
from export.predictor.weights import Floats, read_weights
from runtime.artifacts import MODELS
from runtime.contract import PACKAGE_NAME, PICKLE_FILE
from runtime.errors import SpeckvError
from runtime.terminal import open_console

PICKLE_PROTOCOL = 4
SHIPPED = MODELS / PACKAGE_NAME

PARTS_OF_A_FIT = 4
PARTS_OF_AN_EXPORT = 2

EXAMPLES = """\
examples:
  python -m export                                    rebuild the shipped package from its own pickle
  python -m export --records steps.csv --output mine  refit on step records, with the paper's policy table
  python -m export --pickle theirs.pkl --output mine  convert somebody's pickle without running what is in it
  python -m export drafter --help                     the other export: a drafter for a target model

exit codes: 0 written; 1 parity failed, nothing written; 2 bad input, nothing written;
74 or 141 written, but the summary could not be: standard output is full or closed
"""


def main(argv: Sequence[str]) -> int:
    """Export the package that `argv` asks for; return 0, or 1 if parity failed.

    Raises:
        SpeckvError: for anything the user can put right; nothing is written then.
    """
    arguments = _parser().parse_args(argv)
    check_opset(arguments.opset)
    if arguments.output is None and (arguments.records or arguments.pickle):
        raise SpeckvError(f"give --output, the folder for your own package: {SHIPPED} holds the one that ships")
    folder: Path = (arguments.output or SHIPPED).resolve()
    check_destination(folder, PACKAGE_NAME, FILES)
    try:
        with _progress(PARTS_OF_AN_EXPORT + (PARTS_OF_A_FIT if arguments.records else 0)) as begin:
            written, known = _export(arguments, folder, begin)
    except ParityError as error:
        print(f"error: parity failed, nothing was written: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(written, indent=2))
    else:
        console = open_console()
        with console.capture() as tables:  # rich would turn a closed pipe into exit code 1, which means parity
            print_tables(console, written, known)
        print(tables.get(), end="")
    return 0


def _export(
    arguments: argparse.Namespace, folder: Path, begin: Callable[[str], None]
) -> tuple[dict[str, object], bool]:
    """Write the package; return its summary and whether its figures are known."""
    if arguments.records:
        pickled, refit, features = _refit(arguments.records, begin)
        figures: Figures | None = refit
    else:
        source: Path = arguments.pickle or SHIPPED / PICKLE_FILE
        pickled, refit, features = read_pickle(source), None, None
        figures = known_figures([source.parent, folder], pickled.sha256)
    weights = read_weights(pickled)
    begin("building the graphs")
    files = package_files(pickled, weights, figures, arguments.opset)
    with replacing(folder, PACKAGE_NAME, FILES) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)
        begin("comparing every file with the regressor")
        parity = check_parity(staging, features)
    return summary(folder, files, parity, refit), figures is not None


def _refit(paths: list[Path], begin: Callable[[str], None]) -> tuple[PickledRegressor, Figures | None, Floats | None]:
    records = read_records(paths)
    fit, training, performance = evaluate(records, begin)
    # From here a fresh fit takes the way of any other pickle.
    pickled = parse_pickle(PICKLE_FILE, pickle.dumps(fit.regressor, PICKLE_PROTOCOL))
    return pickled, Figures(training, performance), records.features


@contextmanager
def _progress(parts: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that names the part that begins, on a progress bar on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=parts + 1)

        def begin(part: str) -> None:
            progress.update(bar, description=part, advance=1)

        yield begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export the SpecKV-MLP16 predictor as a portable ONNX package, proven equal to its pickle.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--records", type=Path, action="append", metavar="CSV",
                        help="refit on these step records (repeatable) and report how well it predicts")  # fmt: skip
    source.add_argument("--pickle", type=Path, metavar="FILE",
                        help="convert this pickled MLPRegressor, of scikit-learn 1.2 or newer")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help=f"the package folder to write or replace; without --records and --pickle by default "
                        f"models/{PACKAGE_NAME}")  # fmt: skip
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, metavar="N",
                        help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET})")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON summary on stdout instead of tables")
    return parser
