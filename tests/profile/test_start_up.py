"""Step times at start-up: within their time on any machine, kept for the next start, and what the command line does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedModel

from runtime.__main__ import main
from runtime.cuda import times as cuda_times
from runtime.loop.sampling import Sampling
from runtime.pair import target as pair_target
from runtime.pair.early_exit import early_exit
from runtime.pair.target import Target, load_target
from runtime.policies.registry import TIMED
from runtime.policies.step_times import read_step_times
from runtime.profile import start_up
from runtime.profile.start_up import CALLS, NEEDED, ROUNDS, SECONDS, measure, start_up_times


class Machine:
    """A clock and models on it, whose forwards take 1 ms for the draft and 4 + tokens for the target, times `slow`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: float, first_slow: float = 1) -> None:
        self.now, self.slow, self.first_slow = 0.0, slow, first_slow
        self.calls: list[tuple[str, int]] = []
        monkeypatch.setattr(start_up, "TimedModel", lambda model, _context: SimpleNamespace(forward_ms=self.of(model)))
        monkeypatch.setattr(start_up, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def of(self, model: str) -> Callable[[int], float]:
        def forward_ms(tokens: int) -> float:
            ms = self.slow * (1 if model == "draft" else 4 + tokens)
            ms *= 1 if (model, tokens) in self.calls else self.first_slow
            self.calls.append((model, tokens))
            self.now += ms / 1e3
            return ms

        return forward_ms


def test_a_fast_machine_times_every_width_and_forgets_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slow=1, first_slow=5)
    times = measure("draft", "target")  # type: ignore[arg-type]
    assert times.draft == {1: 1, 2: 1}
    assert times.target == {1: 5, 2: 6, 3: 7, 5: 9, 9: 13, 17: 21}
    assert len(machine.calls) == (ROUNDS + 1) * len(CALLS)


def test_a_slow_machine_times_fewer_widths_not_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slow=10)
    times = measure("draft", "target")  # type: ignore[arg-type]
    assert times.draft == {1: 10, 2: 10}
    assert times.target == {1: 50, 5: 90, 9: 130, 17: 210}
    assert machine.now <= SECONDS
    assert machine.calls.count(("target", 9)) >= 2


def test_the_slowest_machine_still_times_the_needed_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slow=1000)
    times = measure("draft", "target")  # type: ignore[arg-type]
    assert (times.draft, times.target) == ({1: 1000, 2: 1000}, {1: 5000, 9: 13000})
    assert machine.calls == list(CALLS[:NEEDED])


@pytest.fixture(scope="module", params=["fp32", "int8", "nf4"])
def pair(request: pytest.FixtureRequest, target_folder: Path) -> tuple[PreTrainedModel, Target]:
    target = load_target(str(target_folder), request.param, "cpu")
    return early_exit(target.model, 2), target


class Announced:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-times/*.json"))


def test_what_was_measured_is_kept(
    pair: tuple[PreTrainedModel, Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(start_up, "TOLERANCE", 1e9)  # tiny models' times scatter
    announced = Announced()
    first = start_up_times("early-exit:2", *pair, announced)
    (path,) = kept(tmp_path / "cache")
    again = start_up_times("early-exit:2", *pair, announced)
    assert announced.times == 1
    assert (again.draft, again.target) == (first.draft, first.target)
    assert min(*first.draft.values(), *first.target.values()) > 0
    # The file is one that the replay reads, too.
    assert read_step_times(path, pair[1].precision, "eager").target == first.target
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    start_up_times("another", *pair, announced)
    assert announced.times == len(kept(tmp_path / "cache")) == 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"draft": {"eager1": 1.0}}', b'{"draft": {"eager1": -1}, "fp32": {}}', b"\xff\xfe"]
)
def test_a_damaged_file_is_measured_anew(
    target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    target = load_target(str(target_folder), "fp32", "cpu")
    pair, announced = (early_exit(target.model, 2), target), Announced()
    start_up_times(None, *pair, announced)
    (path,) = kept(tmp_path)
    path.write_bytes(content)
    times = start_up_times(None, *pair, announced)
    assert announced.times == 2
    assert read_step_times(path, "fp32", "eager").target == times.target


class TimedPair:
    """A pair whose draft takes 0.1 ms and whose target takes 0.5 and with spares 0.6, times `slow`, on graphs and
    without."""

    texts, capacity, sampling = 1, 512, Sampling()
    slow = 1.0

    def begin(self, prompts: dict[int, list[int]]) -> None:
        assert len(prompts) == self.texts

    def forward_ms(self, model: str) -> Callable[[int], float]:
        return lambda _tokens: self.slow * {"draft": 0.1, "target": 0.5, "spares": 0.6}[model]

    def timed(self, model: str) -> SimpleNamespace:
        return SimpleNamespace(forward_ms=self.forward_ms(model))


@pytest.mark.parametrize("on_graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize(
    ("slow_first", "slow_then", "measured"),
    [(1, 1.2, 1), (1, 3, 2), (3, 1, 2), (20, 19, 1), (1000, 1, 1)],
    ids=["clocks", "busy now", "busy then", "slow", "too slow to check"],
)
def test_kept_times_are_checked(
    target_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_graphs: bool,
    slow_first: float,
    slow_then: float,
    measured: int,
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    target, timed, announced = load_target(str(target_folder), "fp32", "cpu"), TimedPair(), Announced()
    draft = early_exit(target.model, 2)
    monkeypatch.setattr(cuda_times, "TimedDraft", lambda pair: pair.timed("draft"))
    monkeypatch.setattr(cuda_times, "TimedTarget", lambda pair: pair.timed("target"))
    monkeypatch.setattr(cuda_times, "TimedSpares", lambda pair: pair.timed("spares"))
    monkeypatch.setattr(start_up, "TimedModel", lambda model, _: timed.timed("draft" if model is draft else "target"))
    graphs = timed if on_graphs else None
    for timed.slow in (slow_first, slow_then):
        start_up._checked.clear()  # another process
        times = start_up_times(None, draft, target, announced, graphs)  # type: ignore[arg-type]
    timed.slow *= 3
    again = start_up_times(None, draft, target, announced, graphs)  # type: ignore[arg-type]
    assert again.draft == times.draft  # a process checks once
    assert announced.times == measured
    slow = slow_then if measured == 2 else slow_first
    assert times.draft_ms() == pytest.approx(0.1 * slow)
    assert times.spare_ms == (pytest.approx(0.1 * slow) if on_graphs else None)
    (path,) = kept(tmp_path)
    read = read_step_times(path, "fp32", "graph" if on_graphs else "eager")
    assert read.draft == times.draft
    assert read.spare_ms == (pytest.approx(times.spare_ms) if on_graphs else None)


@pytest.mark.parametrize("place", ["in a file", "no home"])
def test_where_nothing_can_be_kept_it_is_measured_every_time(
    target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path / "file" / "cache"))
    if place == "no home":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(start_up, "cache_folder", homeless)
    target, announced = load_target(str(target_folder), "fp32", "cpu"), Announced()
    for _ in range(2):
        assert start_up_times(None, early_exit(target.model, 2), target, announced).target_ms(1) > 0
    assert announced.times == 2


def generate(folder: Path, policy: str, *more: str) -> int:
    pair = ["--target", str(folder), "--draft", "early-exit:2", "--device", "cpu"]
    return main(["generate", "w3 w1 w4", *pair, "--max-new-tokens", "20", "--policy", policy, "--json", *more])


@pytest.mark.parametrize("policy", TIMED)
def test_policies_that_weigh_time_generate_the_targets_text(
    policy: str,
    target_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    monkeypatch.setattr(start_up, "TOLERANCE", 1e9)  # tiny models' times scatter
    assert generate(target_folder, "none") == 0
    alone = capsys.readouterr()
    assert kept(tmp_path) == []  # no times are measured for a policy that needs none
    assert "measuring" not in alone.err
    for said in (1, 0):
        assert generate(target_folder, policy) == 0
        captured = capsys.readouterr()
        assert captured.err.count("measuring the pair's step times") == said
        assert json.loads(captured.out)["text"] == json.loads(alone.out)["text"]
        if policy != "adaptive":  # which finds, rightly, that this draft costs more than it saves
            assert max(map(int, json.loads(captured.out)["gamma_histogram"])) > 0


def test_a_terminal_shows_what_is_under_way_before_the_text(
    target_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(target_folder, "none") == 0
    assert "loading" not in capsys.readouterr().err.lower().replace("loading weights", "")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    assert generate(target_folder, "none") == 0
    shown = capsys.readouterr().err
    assert 0 < shown.index("loading the models") < shown.index("preparing the loop")


@pytest.mark.parametrize(
    ("policy", "more", "said"),
    [("speckv-costly", [], "no policy"), ("bandit:2", [], "no policy"), ("bandit", ["--tensor-parallel"], "processes")],
)
def test_a_policy_that_cannot_be_is_refused_before_a_model_is_loaded(
    target_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    policy: str,
    more: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(pair_target, "load_target", None)
    assert generate(target_folder, policy, *more) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
