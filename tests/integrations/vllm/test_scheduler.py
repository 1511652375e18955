"""The scheduler around a stand-in for vLLM's; `test_engine.py` runs the real one."""

from __future__ import annotations

import logging
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest

from integrations.vllm.scheduler import Controlled, controlled_scheduler, read_settings
from runtime.errors import SpeckvError

SETTINGS = {"draft_ms": 1.0, "target_ms": {"1": 20.0, "257": 20.0}, "acceptance": 0.7}


@dataclass
class SchedulerOutput:
    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)
    finished_req_ids: set[str] = field(default_factory=set)
    num_spec_tokens_to_schedule: int = 0


class Scheduler:
    """Does with its outputs what vLLM's does, in the same order."""

    def __init__(self, *, vllm_config: Any, block_size: int) -> None:
        self.longest, self.block_size = vllm_config.speculative_config.num_speculative_tokens, block_size
        self.after: list[int] = []

    def schedule(self, scheduled: dict[str, int], drafts: dict[str, list[int]], finished: set[str]) -> SchedulerOutput:
        output = SchedulerOutput(scheduled, drafts, finished, self.longest)
        self._update_after_schedule(output)
        return output

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        self.after.append(scheduler_output.num_spec_tokens_to_schedule)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> str:  # noqa: ARG002
        return "the engine's own answer"


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("vllm")
    module.__version__, module.__version_tuple__ = "0.32.0", (0, 32, 0)  # type: ignore[attr-defined]
    output = types.ModuleType("vllm.v1.core.sched.output")
    output.SchedulerOutput = SchedulerOutput  # type: ignore[attr-defined]
    for name in ("vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, output.__name__, output)
    return module


def config(table: Any = ((1, 4, 2),), additional: Any = None, base: type = Scheduler) -> Any:
    class SchedulerConfig:
        scheduler_cls: str | None = "integrations.vllm.scheduler.controlled_scheduler"

        def get_scheduler_cls(self) -> type:
            assert self.scheduler_cls is None
            return base

    speculative = types.SimpleNamespace(num_speculative_tokens=8, num_speculative_tokens_per_batch_size=table)
    return types.SimpleNamespace(
        scheduler_config=SchedulerConfig(),
        speculative_config=speculative,
        additional_config={"speckv": SETTINGS} if additional is None else additional,
    )


def answer(tokens: dict[str, list[int]]) -> Any:
    rows = {request: row for row, request in enumerate(tokens)}
    return types.SimpleNamespace(req_id_to_index=rows, sampled_token_ids=list(tokens.values()))


def test_the_engines_own_scheduler_is_subclassed_and_its_configuration_left_alone() -> None:
    settings = config()
    scheduler = controlled_scheduler(vllm_config=settings, block_size=16)
    assert isinstance(scheduler, Scheduler)
    assert isinstance(scheduler, Controlled)
    assert scheduler.block_size == 16
    assert settings.scheduler_config.scheduler_cls is not None


def test_the_controllers_length_is_what_the_engine_sees() -> None:
    scheduler = controlled_scheduler(vllm_config=config(), block_size=16)
    first = scheduler.schedule({"a": 7}, {}, set())
    chosen = first.num_spec_tokens_to_schedule
    assert 0 < chosen < 8
    assert scheduler.update_from_output(first, answer({"a": [1]})) == "the engine's own answer"
    for _ in range(30):  # everything stands
        drafts = [1] * scheduler.after[-1]
        output = scheduler.schedule({"a": len(drafts) + 1}, {"a": drafts}, set())
        scheduler.update_from_output(output, answer({"a": [*drafts, 1]}))
    assert scheduler.after[-1] == 8
    for _ in range(60):  # nothing does
        output = scheduler.schedule({"a": 9}, {"a": [1] * 8}, set())
        scheduler.update_from_output(output, answer({"a": [1]}))
    assert scheduler.after[-1] < chosen


def test_what_has_no_output_teaches_nothing() -> None:
    scheduler = controlled_scheduler(vllm_config=config(), block_size=16)
    output = scheduler.schedule({"a": 3, "b": 3, "c": 3}, {"a": [1, 1], "b": [1, 1], "c": []}, set())
    before = scheduler.controller.overall.rate
    scheduler.update_from_output(output, answer({"a": [], "c": [5]}))  # b was preempted
    assert scheduler.controller.overall.rate == before


def test_finished_requests_are_dropped_and_an_empty_step_asks_nothing() -> None:
    scheduler = controlled_scheduler(vllm_config=config(), block_size=16)
    scheduler.schedule({"a": 1, "b": 1}, {}, set())
    output = scheduler.schedule({}, {}, {"a"})
    scheduler.update_from_output(output, answer({}))
    assert set(scheduler.controller.requests) == {"b"}
    assert output.num_spec_tokens_to_schedule == 8  # the engine's


def test_only_steps_without_prompts_or_changes_are_timed() -> None:
    scheduler = controlled_scheduler(vllm_config=config(), block_size=16)
    timed = scheduler.controller.steps._all
    prompt = scheduler.schedule({"a": 50}, {}, set())
    scheduler.update_from_output(prompt, answer({"a": [1]}))
    assert not timed
    length = prompt.num_spec_tokens_to_schedule
    output = scheduler.schedule({"a": length + 1}, {"a": [1] * length}, set())
    scheduler.update_from_output(output, answer({"a": [1] * (length + 1)}))
    assert len(timed) == 1


class Renamed(Scheduler):
    def update_from_output(self, output: Any, answer: Any) -> str:
        raise NotImplementedError


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no table": ({"table": None}, "num_speculative_tokens_per_batch_size"),
    "no settings": ({"additional": {}}, "additional_config"),
    "other parameters": ({"base": Renamed}, "update_from_output"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_elsewhere_the_engine_is_left_alone_with_one_warning(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    changed, words = FAULTS[fault]
    with caplog.at_level(logging.WARNING):
        scheduler = controlled_scheduler(vllm_config=config(**changed), block_size=16)
    assert type(scheduler) is changed.get("base", Scheduler)
    (record,) = caplog.records
    assert words in record.getMessage()


def test_another_version_is_left_alone(vllm: Any, caplog: pytest.LogCaptureFixture) -> None:
    vllm.__version__, vllm.__version_tuple__ = "0.33.1", (0, 33, 1)
    assert type(controlled_scheduler(vllm_config=config(), block_size=16)) is Scheduler
    (record,) = caplog.records
    assert "0.33.1 is not the tested 0.32" in record.getMessage()


def test_a_field_that_is_gone_is_found_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Other:
        num_scheduled_tokens: dict[str, int]

    monkeypatch.setattr(sys.modules["vllm.v1.core.sched.output"], "SchedulerOutput", Other)
    assert type(controlled_scheduler(vllm_config=config(), block_size=16)) is Scheduler
    assert "num_spec_tokens_to_schedule" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        *(None, [], {}, {**SETTINGS, "target_ms": {"one": 1}}),
        *({**SETTINGS, "acceptance": 1.5}, {**SETTINGS, "acceptance": float("nan")}, {**SETTINGS, "longest": 3}),
    ],
    ids=str,
)
def test_damaged_settings_are_refused_in_one_line(settings: Any) -> None:
    with pytest.raises(SpeckvError, match="additional_config") as error:
        read_settings(settings, 4)
    assert "\n" not in str(error.value)
