"""The options of the commands that replay, and the replays that they ask for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.contract import PRECISIONS, compression_of
from runtime.errors import SpeckvError
from runtime.policies.registry import NAMES, THRESHOLD, TIMED, make_policy
from runtime.policies.step_times import BACKENDS, StepTimes, read_step_times
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.policies.policy import Policy
    from runtime.replay.traces import Text

DEFAULT_POLICIES = ("none", "fixed:4", "speckv", *THRESHOLD, "heuristic", "moving-average", *TIMED, "oracle")


@dataclass(frozen=True)
class Job:
    """One file of traces to replay, and all that it takes."""

    traces: Path
    precision: str
    times: StepTimes
    texts: list[Text]
    policies: list[Policy]
    """Good for one replay: an oracle follows the texts."""

    @property
    def replays(self) -> int:
        """How often a text is decoded: by every fixed gamma and every policy."""
        from runtime.replay.traces import LOOKAHEAD

        return len(self.texts) * (LOOKAHEAD + 1 + len(self.policies))


def add_replay_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name traces, step times and policies."""
    parser.add_argument("--traces", type=Path, nargs="+", required=True, metavar="NPZ")
    parser.add_argument("--step-times", type=Path, required=True, metavar="JSON", help="step_times_ms.json")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="eager",
        help="whose step times (default: eager); with those of graphs, what a policy does while their loop drafts "
        "ahead costs nothing, a token drafted for nothing counts, those asked for at once are drafted in a chain, and "
        "second choices are verified where a policy wants it, as far as traces and times know of them",
    )
    parser.add_argument(
        "--policies", nargs="+", default=DEFAULT_POLICIES, metavar="POLICY", help=f"{NAMES}, oracle (default: each)"
    )
    parser.add_argument(
        "--compression", choices=PRECISIONS, help="precision of the target (default: from each file's name)"
    )


def read_jobs(options: argparse.Namespace) -> list[Job]:
    """Read all that the options name, in the order of `--traces`.

    Raises:
        SpeckvError: for a file that cannot be read, step times that are missing, or an unknown policy.
    """
    names = list(dict.fromkeys(options.policies))
    return [_read_job(path, names, options) for path in options.traces]


def _read_job(path: Path, names: Sequence[str], options: argparse.Namespace) -> Job:
    from runtime.replay.traces import read_traces

    precision = options.compression or _precision(path)
    times = read_step_times(options.step_times, precision, options.backend)
    texts = read_traces(path)
    return Job(path, precision, times, texts, _policies(names, precision, times, texts))


def _precision(path: Path) -> str:
    found = set(re.split(r"[^a-z0-9]+", path.stem.lower())) & set(PRECISIONS)
    if len(found) != 1:
        raise SpeckvError(f"{path}: the name does not say one precision of {', '.join(PRECISIONS)}: give --compression")
    return found.pop()


def _policies(names: Sequence[str], precision: str, times: StepTimes, texts: Sequence[Text]) -> list[Policy]:
    from runtime.replay.oracle import Oracle

    compression = compression_of(precision)
    return [Oracle(texts) if name == "oracle" else make_policy(name, compression, times) for name in names]


@contextmanager
def replay_progress(jobs: Sequence[Job]) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr; yields what is to be called after every decoded text."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=open_console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=sum(job.replays for job in jobs))
        yield lambda: bar.advance(task)
