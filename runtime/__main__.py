"""`python -m runtime COMMAND`: decide, measure, generate."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from runtime.errors import SpeckvError, refused
from runtime.terminal import discard_output, open_missing

# Read by OpenMP when torch is imported. By default its threads spin while they wait for each other, and one other busy
# process then makes a small model's forward pass twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read by transformers: otherwise it may fetch compiled kernels from Hub repositories that nobody named.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "safetensors"), "loop"),
    "matplotlib": "report",
}
"""Package → the extra of this project that installs it."""

MEMORY_ADVICE = "free memory, or take shorter texts, fewer rows, a more compressed target or a smaller one"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (2 for bad input, 130 for an interrupt)."""
    open_missing()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a failure has an exit code of its own
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        discard_output()
        return 141
    except SpeckvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if not extra:
            raise
        print(f"error: this command needs '{error.name}': pip install 'speckv[{extra}]'", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None:  # it may be standard output
            discard_output()
        print(f"error: {refused(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        said = (str(error).splitlines() or ["out of memory"])[0]
        print(f"error: {said[:300]}: {MEMORY_ADVICE}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    """Read the options, and run the command that they name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a character gets a ?, not a traceback
    options = _parser().parse_args(arguments)
    exit_code: int = options.run(options)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    # Imported here, where Ctrl-C is caught: it takes a while.
    from runtime.commands import (
        bench,
        generate,
        latency,
        precisions,
        profile,
        replay,
        report,
        roofline,
        select,
        throughput,
    )

    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Choose the speculation length of speculative decoding.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (select, latency, generate, bench, throughput, profile, precisions, roofline, replay, report):
        command.add_parser(subparsers)
    return parser


def _out_of_memory(error: Exception) -> bool:
    """Whether it is Python's, torch's for a GPU (its type, without importing torch) or torch's for the host."""
    kind = type(error).__name__
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in str(error)


if __name__ == "__main__":
    sys.exit(main())
