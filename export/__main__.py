"""`python -m export` (the predictor package), and `python -m export drafter`, `stopper`, `vectors` and `readme`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runtime.errors import SpeckvError, refused
from runtime.terminal import discard_output, open_missing


def main(argv: Sequence[str] | None = None) -> int:
    """Run one export and return the exit code.

    0 done, 1 parity failed, 2 bad input, 74 standard output cannot be written, 130 interrupted, 141 closed pipe.
    """
    open_missing()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a failure has an exit code of its own
    except BrokenPipeError:
        discard_output()
        return 141
    except OSError as error:
        if error.filename is not None:  # about a file, not about standard output
            print(f"error: {refused(error)}", file=sys.stderr)
            return 2
        discard_output()
        print(f"error: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
        return 74


def _run(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["drafter"]:
            return _run_drafter(arguments[1:])
        if arguments[:1] == ["stopper"]:
            return _run_stopper(arguments[1:])
        if arguments[:1] == ["readme"]:
            return _run_readme(arguments[1:])
        if arguments[:1] == ["vectors"]:
            return _run_vectors(arguments[1:])
        return _run_predictor(arguments)
    except SpeckvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


# Each is imported when it is run, where Ctrl-C is caught and a missing package has an answer.


def _run_readme(arguments: list[str]) -> int:
    from export.readme import main as write_readme

    return write_readme(arguments)


def _run_predictor(arguments: list[str]) -> int:
    try:
        from export.predictor.command import main as export_predictor
    except ModuleNotFoundError as error:
        raise _missing(error, "export") from None
    return export_predictor(arguments)


def _run_vectors(arguments: list[str]) -> int:
    try:
        from export.predictor.vectors import main as export_vectors
    except ModuleNotFoundError as error:
        raise _missing(error, "export") from None
    return export_vectors(arguments)


def _run_drafter(arguments: list[str]) -> int:
    try:
        from export.drafter.command import main as export_drafter
    except ModuleNotFoundError as error:
        raise _missing(error, "loop") from None
    return export_drafter(arguments)


def _run_stopper(arguments: list[str]) -> int:
    try:
        from export.stopper.command import main as export_stopper
    except ModuleNotFoundError as error:
        raise _missing(error, "export,loop") from None
    return export_stopper(arguments)


def _missing(error: ModuleNotFoundError, extra: str) -> SpeckvError:
    return SpeckvError(f"this export needs '{error.name}', which is not installed: pip install 'speckv[{extra}]'")


if __name__ == "__main__":
    sys.exit(main())
