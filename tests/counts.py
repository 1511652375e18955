"""What was tried, as JSON in build/counts/: one file a suite; `python -m tests.counts` adds them up in a table."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "build" / "counts"


def write_counts(
    suite: str, command: str, tried: Mapping[str, int], failed: int, unit: str = "inputs", wrong: int = 0
) -> None:
    """Write `build/counts/SUITE.json`.

    Args:
        suite: name of the suite.
        command: what runs it again.
        tried: part of the suite → how many were tried.
        failed: how many of them failed.
        unit: what is counted.
        wrong: how many of the failed gave a wrong answer; the others crashed.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"suite": suite, "command": command, "unit": unit, "tried": dict(tried), "failed": failed, "wrong": wrong}
    (FOLDER / f"{suite}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Tally:
    """Counts the tests of a folder as they end: a file is a suite, a function a part of it, a case one of its unit."""

    def __init__(self, prefix: str, unit: str) -> None:
        self.prefix, self.unit = prefix, unit
        self.tried: dict[str, Counter[str]] = {}
        self.failed: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    def note(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        """Count one test; an assertion that fails is a wrong answer, anything else that it raises a crash."""
        if call.when != "call" or (call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception)):
            return
        suite = f"{self.prefix}-{item.path.stem.removeprefix('test_')}"
        self.tried.setdefault(suite, Counter())[item.originalname if isinstance(item, pytest.Function) else ""] += 1
        if call.excinfo:
            self.failed[suite] += 1
            self.wrong[suite] += call.excinfo.errisinstance(AssertionError)

    def write(self) -> None:
        """Write the counts of every suite that was run."""
        for suite, tried in self.tried.items():
            write_counts(suite, "make test", tried, self.failed[suite], self.unit, self.wrong[suite])


def main() -> int:
    """Print the table; return 1 if anything failed, or nothing has been counted."""
    suites = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    if not suites:
        print("nothing has been counted: run `make test`, `make test-long` and `make fuzz`")
        return 1
    print(table(suites))
    totals = Counter[str]()
    for suite in suites:
        totals[suite["unit"]] += sum(suite["tried"].values())
    failed, wrong = (sum(suite.get(key, 0) for suite in suites) for key in ("failed", "wrong"))
    print("\n" + ", ".join(f"{number:,} {unit}" for unit, number in sorted(totals.items())))
    print(f"{failed - wrong} crashes, {wrong} wrong answers")
    return 1 if failed else 0


def table(suites: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row for each suite."""
    rows = [("suite", "tried", "of", "crashes", "wrong answers", "again with")]
    for suite in suites:
        wrong = suite.get("wrong", 0)
        tried = f"{sum(suite['tried'].values()):,}"
        rows.append((suite["suite"], tried, suite["unit"], str(suite["failed"] - wrong), str(wrong), suite["command"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_right = (False, True, False, True, True, False)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_the_right, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
