"""The controller inside vLLM's scheduler: where it fails, the engine serves on with its own lengths."""

from __future__ import annotations

import pytest

from integrations.vllm.controller import Controller, MeasuredSteps
from integrations.vllm.scheduler import controlled_scheduler
from tests.faults.injections import raising
from tests.integrations.vllm.test_scheduler import answer, config, vllm

__all__ = ["vllm"]  # a fixture: the stand-in for the engine


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("where", ["length", "observe", "forget", "times"])
def test_a_controller_that_fails(
    where: str, steps: int, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.set_level("WARNING", "vllm.speckv")
    scheduler = controlled_scheduler(vllm_config=config(), block_size=16)

    def step() -> int:
        drafts = [1] * (scheduler.after[-1] if scheduler.after else 2)
        output = scheduler.schedule({"a": len(drafts) + 1}, {"a": drafts}, {"gone"})
        output.num_spec_tokens_to_schedule = len(drafts)  # as in a step that is timed
        assert scheduler.update_from_output(output, answer({"a": [*drafts, 1]})) == "the engine's own answer"
        return int(scheduler.after[-1])

    for _ in range(steps):
        step()
    owner, name = (MeasuredSteps, "observe") if where == "times" else (Controller, where)
    monkeypatch.setattr(owner, name, lambda *_: raising(ZeroDivisionError("no time"))())
    lengths = [step() for _ in range(4)]
    assert lengths[1:] == [scheduler.longest] * 3
    assert len(told.messages) == 1
    assert "ZeroDivisionError: no time" in told.messages[0]
