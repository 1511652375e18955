"""Results that the device writes into the host's memory: what is read is the call's own, and nothing waits for ever."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from runtime.cuda import graphs as graphs_module
from runtime.cuda import mailbox as mailbox_module
from runtime.cuda.loop import speculate_greedily
from runtime.cuda.mailbox import UNWRITTEN, Mailbox
from runtime.cuda.pair import RESTS, GraphPair
from runtime.loop.sampling import Sampling
from runtime.policies.fixed import Fixed
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import NowAndThen

CPU = torch.device("cpu")
WAYS = [Sampling(), Sampling(1.0)]


class LateDevice:
    """Does its work when the host asks whether it is idle, one piece at a time, or waits for all of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work: list[Callable[[], object]] = []
        self.waits = 0
        monkeypatch.setattr(mailbox_module, "POLLS", 3)
        monkeypatch.setattr(mailbox_module, "_idle", lambda _: self._idle())
        monkeypatch.setattr(mailbox_module, "_wait", lambda _: self.wait())

    def run(self, name: Hashable, work: Callable[[], None]) -> None:  # noqa: ARG002
        self.work.append(work)

    def _idle(self) -> bool:
        if self.work:
            self._do_next()
        elif torch.cuda.is_available():
            torch.cuda.synchronize()  # what the tests did not hand to this device
        return not self.work

    def wait(self) -> None:
        self.waits += 1
        while self.work:
            self._do_next()

    def _do_next(self) -> None:
        self.work.pop(0)()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LateDevice:
    return LateDevice(monkeypatch)


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return small_pair(32)


@pytest.fixture
def pair(models: tuple[PreTrainedModel, PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> GraphPair:
    shorten_calls(monkeypatch)
    return GraphPair(*models, 2, 24, 3)


def test_numbers_are_read_when_the_last_of_them_is_there(device: LateDevice) -> None:
    box = Mailbox(2, 2, 3, CPU)
    box.begin(1)
    order = [(1, 2), (0, 0), (1, 0), (0, 2), (1, 1), (0, 1)]
    device.work = [lambda at=at: box.numbers[1].__setitem__(at, 10.0 * at[0] + at[1]) for at in order]
    assert box.read(1) == [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]
    assert not device.work
    assert box.numbers.eq(UNWRITTEN).all()  # ready for the next call


def test_numbers_that_are_none_are_numbers(device: LateDevice) -> None:
    box = Mailbox(1, 1, 3, CPU)
    box.begin(0)
    device.work = [lambda: box.numbers.copy_(torch.tensor([math.nan, -1.0, math.inf]))]
    (row,) = box.read(0)
    assert math.isnan(row[0])
    assert row[1:] == [-1.0, math.inf]


@pytest.mark.parametrize("missing", ["all", "one"])
def test_a_device_that_is_idle_and_has_not_written_is_an_error(missing: str) -> None:
    box = Mailbox(1, 2, 2, CPU)
    if missing == "one":
        box.numbers[0] = torch.tensor([[1.0, 2.0], [UNWRITTEN, 3.0]])
    with pytest.raises(RuntimeError, match="has left no result"):
        box.read(0)


def test_a_failed_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> bool:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(mailbox_module, "_idle", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Mailbox(1, 1, 1, CPU).read(0)


def test_what_is_written_while_the_device_says_that_it_is_idle_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox(1, 1, 1, CPU)

    def idle(_: Any) -> bool:
        box.numbers.fill_(7.0)
        return True

    monkeypatch.setattr(mailbox_module, "_idle", idle)
    assert box.read(0) == [[7.0]]


def test_a_call_that_nobody_read_is_waited_for_and_no_other(device: LateDevice) -> None:
    box = Mailbox(2, 1, 1, CPU)
    box.begin(0)
    box.begin(1)
    assert device.waits == 0
    device.work = [lambda: box.numbers[0].fill_(5.0), lambda: box.numbers[1].fill_(6.0)]
    box.begin(0)
    assert device.waits == 1
    device.work = [lambda: box.numbers[0].fill_(7.0)]
    assert (box.read(0), box.read(1)) == ([[7.0]], [[6.0]])
    box.begin(0)
    assert device.waits == 1


def _as(numbers: Tensor, value: float) -> Callable[[], object]:
    return lambda: numbers.fill_(value)


def test_a_draft_that_nobody_read_is_not_taken_for_the_next(pair: GraphPair, device: LateDevice) -> None:
    """The device writes 1 everywhere for the first call, 2 for the second, …"""
    calls = iter(range(1, 9))
    box = pair._drafted.numbers
    pair.graphs.run = lambda *_: device.work.append(_as(box[1], next(calls)))  # type: ignore[method-assign]
    pair.draft(1, 1)
    pair.draft(1, 1)
    assert [drawn.token for drawn in pair.drafted(1)] == [2, 2]
    pair.draft(1, 1)
    assert [drawn.token for drawn in pair.drafted(1)] == [3, 3]
    assert device.waits == 1  # for the first


def test_a_verification_that_nobody_read_keeps_its_gammas_and_is_not_taken_for_the_next(
    pair: GraphPair, device: LateDevice
) -> None:
    seen: list[list[int]] = []

    def verify() -> None:
        seen.append(pair._gammas.tolist())
        pair._verified.numbers[0] = pair._gammas[:, None].float()

    pair.graphs.run = lambda *_: device.work.append(verify)  # type: ignore[method-assign]
    pair.verify([2, 1])
    pair.verify([3, 0])
    assert [row.accepted for row in pair.verified()] == [3, 0]
    assert seen == [[2, 1], [3, 0]]


@pytest.mark.parametrize("policy", [Fixed(3), NowAndThen(1)], ids=["fixed", "now and then"])
def test_a_late_device_changes_no_token(
    models: tuple[PreTrainedModel, PreTrainedModel],
    pair: GraphPair,
    policy: Fixed | NowAndThen,
    device: LateDevice,
) -> None:
    prompt = [3, 1, 4, 1, 5]
    steps = speculate_greedily(GraphPair(*models, 1, 24, 3), prompt, policy, max_new_tokens=9)
    expected = [token for step in steps for token in step.tokens]
    pair.graphs.run = device.run  # type: ignore[method-assign]
    begin = pair.begin

    def begin_and_wait(prompts: Any) -> None:
        begin(prompts)
        device.wait()  # the host writes the text itself

    pair.begin = begin_and_wait  # type: ignore[method-assign]
    steps = speculate_greedily(pair, prompt, policy, max_new_tokens=9)
    assert [token for step in steps for token in step.tokens] == expected


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_rows_that_rest_are_read(pair: GraphPair, way: Sampling) -> None:
    pair.choose(way)
    pair.begin({0: [1, 2, 3], 1: [4, 5]})
    pair.draft(0, 1, [0.5, 0.5])
    pair.drafted(0)
    pair.verify([RESTS, 1], [[], [0.0, 0.5]])
    rest, other = pair.verified()
    assert rest.accepted == RESTS
    assert math.isnan(rest.signals[2])
    assert other.accepted in (0, 1)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_logits_that_are_no_numbers_are_read(way: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calls(monkeypatch)
    models = small_pair(32)
    for model in models:
        model.get_output_embeddings().weight.data.fill_(math.nan)
    pair = GraphPair(*models, 1, 24, 3)
    pair.choose(way)
    pair.begin({0: [1, 2, 3]})
    pair.draft(0, 1, [0.5])
    ((signals, token, _),) = pair.drafted(0)
    assert not signals.known
    assert 0 <= token < 32
    pair.verify([1], [[0.0, 0.5]])
    (verified,) = pair.verified()
    assert verified.accepted == 0
    assert math.isnan(verified.signals[1])


def test_a_launch_that_fails_leaves_a_pair_that_works_or_raises(
    pair: GraphPair, device: LateDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    pair.begin({0: [1, 2, 3], 1: [4, 5]})
    with monkeypatch.context() as patch:
        patch.setattr(pair.graphs, "run", fail)
        for call in (lambda: pair.draft(0, 1), lambda: pair.verify([0, 0])):
            with pytest.raises(MemoryError):
                call()
    for read in (lambda: pair.drafted(0), pair.verified):
        with pytest.raises(RuntimeError, match="has left no result"):
            read()
    pair.draft(0, 1)
    assert all(0 <= token < 32 for _, token, _ in pair.drafted(0))
    pair.verify([1, 0])
    assert all(0 <= token < 32 for row in pair.verified() for token in row.tokens)
    assert not device.work


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_capturing_a_graph_forgets_its_rehearsal_and_nothing_that_was_under_way(
    pair: GraphPair, way: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft is under way while another and a verification are captured."""
    drafted, verified = pair._drafted.numbers, pair._verified.numbers
    under_way = [_as(drafted[0], 4.0)]

    def synchronize(_: Any) -> None:
        while under_way:
            under_way.pop()()

    def rehearse() -> None:
        under_way.extend([_as(drafted[1], 5.0), _as(verified[0], 6.0)])

    pair.choose(way)
    monkeypatch.setattr(graphs_module.torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(graphs_module.torch.cuda, "CUDAGraph", lambda: cast(Any, None))
    monkeypatch.setattr(graphs_module.torch.cuda, "graph", lambda *_, **__: nullcontext())
    (pair._drawing or pair).graphs._capture("more", rehearse)
    assert (drafted[0] == 4.0).all()
    assert (drafted[1] == UNWRITTEN).all()
    assert (verified == UNWRITTEN).all()
