"""`python -m export` (the predictor package), `python -m export drafter` and `python -m export readme`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from export.readme import main as write_readme
from runtime.errors import SpeckvError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one export and return the exit code: 0 done, 1 parity failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["drafter"]:
            return _run_drafter(arguments[1:])
        if arguments[:1] == ["readme"]:
            return write_readme(arguments[1:])
        return _run_predictor(arguments)
    except SpeckvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run_predictor(arguments: list[str]) -> int:
    try:
        from export.predictor.command import main as export_predictor
    except ModuleNotFoundError as error:
        raise _missing(error, "export") from None
    return export_predictor(arguments)


def _run_drafter(arguments: list[str]) -> int:
    # Imported here: the drafter needs torch, which the predictor export must not wait for.
    try:
        from export.drafter.command import main as export_drafter
    except ModuleNotFoundError as error:
        raise _missing(error, "loop") from None
    return export_drafter(arguments)


def _missing(error: ModuleNotFoundError, extra: str) -> SpeckvError:
    return SpeckvError(f"this export needs '{error.name}', which is not installed: pip install 'speckv[{extra}]'")


if __name__ == "__main__":
    sys.exit(main())
