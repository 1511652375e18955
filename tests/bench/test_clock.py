"""Seconds until the device is done, and the memory that belongs to each contender."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from runtime.bench import clock
from runtime.bench.clock import Clock
from runtime.bench.contender import Generation


class Device:
    """A CUDA device with 100 bytes of models on it, whose work is done only when someone waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.peak = 100
        self.now = self.queued = 0.0
        names = ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats", "synchronize")
        for name, function in zip(names, (self.bytes, self.most, self.forget, self.wait), strict=True):
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def bytes(self, _: object) -> int:
        return self.allocated

    def most(self, _: object) -> int:
        return self.peak

    def forget(self, _: object) -> None:
        self.peak = self.allocated

    def wait(self, _: object) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


class Allocating:
    """Keeps some bytes from its first run on, and takes some more during each."""

    def __init__(self, name: str, device: Device, keeps: int, takes: int) -> None:
        self.name, self.device, self.keeps, self.takes = name, device, keeps, takes

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:  # noqa: ARG002
        self.device.allocated += self.keeps
        self.keeps = 0
        self.device.peak = max(self.device.peak, self.device.allocated + self.takes)
        self.device.queued = 2.5
        return Generation([1], 1, 0)


def test_seconds_last_until_the_device_is_done_and_memory_is_each_contenders_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    timer = Clock(torch.device("cuda", 0))
    static, plain = Allocating("static", device, keeps=10, takes=7), Allocating("plain", device, keeps=0, takes=3)
    for _ in range(3):
        assert timer.time(static, [1], 1)[1] == 2.5
        timer.time(plain, [1], 1)
    plain.takes = 2
    timer.time(plain, [1], 1)
    assert timer.peak_bytes("static") == 100 + 10 + 7
    assert timer.peak_bytes("plain") == 100 + 3


def test_what_was_prepared_for_a_contender_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    timer = Clock(torch.device("cuda", 0))
    device.allocated += 30
    timer.prepared(["loop"])
    assert timer.peak_bytes("loop") == 130
    for name in ("loop", "plain"):
        timer.time(Allocating(name, device, keeps=0, takes=4), [1], 1)
        timer.time(Allocating(name, device, keeps=0, takes=5), [1], 1)
    assert timer.peak_bytes("loop") == 100 + 30 + 5
    assert timer.peak_bytes("plain") == 100 + 5
