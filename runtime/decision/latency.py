"""What one decision costs: the same decision made in several ways, interleaved in one run."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts import MODELS
from runtime.contract import PREDICTOR_FILE, PUBLISHED_CANDIDATES, WEIGHTS_FILE
from runtime.decision.selector import GammaSelector
from runtime.decision.session import open_session
from runtime.errors import SpeckvError
from runtime.npz import read_npz

FP16 = 0
HOME = MODELS.parent
"""Where the import packages lie."""
Decide = Callable[[tuple[float, ...]], int]
"""Four signals of an fp16 target in, gamma out."""


@dataclass(frozen=True)
class Timing:
    """Microseconds of one decision made in one way, over the rounds of one run."""

    name: str
    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""


@dataclass(frozen=True)
class Process:
    """A fresh process that makes one decision and ends."""

    seconds: float
    """Median wall-clock time from starting the process to its end."""
    peak_megabytes: float
    """Peak resident memory, in 10^6 bytes."""


class SklearnLoop:
    """The published loop, four `predict` calls a decision, in a child process: `runtime` never opens a pickle."""

    def __init__(self) -> None:
        command, pipe = [sys.executable, "-m", "export.predictor.sklearn_loop"], subprocess.PIPE
        # In the folder of this installation: a child looks for `export` where it is started.
        self._child = subprocess.Popen(command, cwd=HOME, stdin=pipe, stdout=pipe, text=True)  # nosec B603

    def __enter__(self) -> SklearnLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def decide(self, rows: NDArray[np.float32]) -> tuple[list[int], float]:
        """Return the gammas of `rows` (float32 `[n, 4]`) and the seconds they took inside the child."""
        assert self._child.stdin is not None  # nosec B101
        assert self._child.stdout is not None  # nosec B101
        self._child.stdin.write(json.dumps(rows.tolist()) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise SpeckvError("the sklearn loop ended early: see its message above, or `pip install speckv[export]`")
        answer = json.loads(line)
        return answer["gamma"], answer["seconds"]


def contenders(package: Path, cuda: bool) -> dict[str, Decide]:
    """Return the ways of deciding that run in this process, by name."""
    ways = {
        "numpy weights": _numpy(package),
        "onnxruntime, 4 calls": _four_calls(package),
        "onnxruntime, 1 batched call": _one_call(package),
        "decision graph": _decision_graph(package, "cpu"),
    }
    if cuda:
        ways["decision graph, CUDA"] = _decision_graph(package, "cuda")
    return ways


def measure_decisions(package: Path, cuda: bool, rounds: int, per_round: int = 200) -> list[Timing]:
    """Time one decision in every way, interleaved over `rounds`, after asserting that all decide alike.

    Raises:
        SpeckvError: if two ways choose differently.
    """
    rows = random_signals(per_round)
    signals = [tuple(row) for row in rows.tolist()]
    ways = contenders(package, cuda)
    batched = GammaSelector(package, "cpu")
    samples: dict[str, list[float]] = {}
    sklearn_installed = importlib.util.find_spec("sklearn") is not None
    loop: AbstractContextManager[Any] = SklearnLoop() if sklearn_installed else nullcontext()
    with loop as sklearn_loop:
        expected = [ways["decision graph"](row) for row in signals]
        for name, decide in ways.items():
            _assert_equal(name, [decide(row) for row in signals], expected)
        for _ in range(rounds):
            if sklearn_loop is not None:
                gammas, seconds = sklearn_loop.decide(rows)
                _assert_equal("sklearn loop", gammas, expected)
                samples.setdefault("sklearn, 4 x predict", []).append(seconds)
            for name, decide in ways.items():
                start = time.perf_counter()
                for row in signals:
                    decide(row)
                samples.setdefault(name, []).append(time.perf_counter() - start)
            start = time.perf_counter()
            gammas = batched.select_batch(rows, FP16).gamma.tolist()
            samples.setdefault(f"decision graph, {per_round} rows in one call", []).append(time.perf_counter() - start)
            _assert_equal("the batch", gammas, expected)
    return [_timing(name, np.asarray(seconds) / per_round * 1e6) for name, seconds in samples.items()]


def measure_process(runs: int = 7) -> Process:
    """Start a process that imports `runtime`, decides once and ends, `runs` times."""
    # VmHWM and not ru_maxrss: the latter starts at the parent's memory on Linux.
    script = (
        "import runtime\n"
        "runtime.GammaSelector().select((0.9, 0.8, 1.7, 0.5), 'fp16')\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    seconds, kilobytes = [], []
    for _ in range(runs):
        start = time.perf_counter()
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=HOME, check=True, capture_output=True, text=True)  # nosec B603
        seconds.append(time.perf_counter() - start)
        kilobytes.append(int(done.stdout))
    return Process(statistics.median(seconds), statistics.median(kilobytes) * 1024 / 1e6)


def random_signals(rows: int) -> NDArray[np.float32]:
    """Return float32 `[rows, 4]` plausible signals, the same on every call."""
    random = np.random.default_rng(0)
    mean, confidence = random.uniform(0, 6, rows), random.uniform(0.1, 1, rows)
    largest, least = mean + random.uniform(0, 4, rows), confidence * random.uniform(0.2, 1, rows)
    return np.stack([mean, confidence, largest, least], axis=1).astype(np.float32)


def _numpy(package: Path) -> Decide:
    weights = read_npz(package / WEIGHTS_FILE, 16 << 20, "export the package again")
    W1, b1, W2, b2 = (weights[name] for name in ("W1", "b1", "W2", "b2"))
    lengths = np.asarray(PUBLISHED_CANDIDATES, np.float64)

    def decide(signals: tuple[float, ...]) -> int:
        x = np.empty((len(lengths), 6))
        x[:, :4], x[:, 4], x[:, 5] = signals, FP16, lengths
        rate = np.clip(np.maximum(x @ W1 + b1, 0) @ W2 + b2, 0, 1)[:, 0]
        return PUBLISHED_CANDIDATES[int(np.argmax(rate * lengths + 1))]

    return decide


def _four_calls(package: Path) -> Decide:
    session = open_session(package / PREDICTOR_FILE, "cpu")

    def decide(signals: tuple[float, ...]) -> int:
        best, best_gamma = -1.0, 0
        for gamma in PUBLISHED_CANDIDATES:
            features = np.asarray([[*signals, FP16, gamma]], np.float32)
            rate = float(session.run(None, {"features": features})[0][0, 0])
            if (tokens := min(max(rate, 0.0), 1.0) * gamma + 1) > best:
                best, best_gamma = tokens, gamma
        return best_gamma

    return decide


def _one_call(package: Path) -> Decide:
    session = open_session(package / PREDICTOR_FILE, "cpu")
    lengths = np.asarray(PUBLISHED_CANDIDATES, np.float32)

    def decide(signals: tuple[float, ...]) -> int:
        x = np.empty((len(lengths), 6), np.float32)
        x[:, :4], x[:, 4], x[:, 5] = signals, FP16, lengths
        rate = session.run(None, {"features": x})[0][:, 0].clip(0, 1)
        return PUBLISHED_CANDIDATES[int(np.argmax(rate * lengths + 1))]

    return decide


def _decision_graph(package: Path, provider: str) -> Decide:
    selector = GammaSelector(package, provider)
    return lambda signals: selector.select(signals, FP16).gamma


def _assert_equal(name: str, gammas: list[int], expected: list[int]) -> None:
    if gammas != expected:
        row = next(i for i, pair in enumerate(zip(gammas, expected, strict=True)) if pair[0] != pair[1])
        raise SpeckvError(f"{name} chose {gammas[row]} where the decision graph chose {expected[row]}: re-export")


def _timing(name: str, microseconds: NDArray[np.float64]) -> Timing:
    low, median, high = np.percentile(microseconds, [10, 50, 90])
    return Timing(name, float(median), float(low), float(high))


def as_json(timings: list[Timing], process: Process) -> dict[str, object]:
    """Return the measurement as a JSON object; times in microseconds unless named otherwise."""
    return {"decision_us": [asdict(timing) for timing in timings], "process": asdict(process)}
