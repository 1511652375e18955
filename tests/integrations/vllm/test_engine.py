"""The real engine on the CPU with the embedded pair; `make test-vllm` prepares and runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integrations.vllm.plan import SCHEDULER

ROOT = Path(__file__).parents[3]
PREPARED = ROOT / "build" / "vllm"
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
]


class Run(NamedTuple):
    tokens: list[list[int]]
    counters: dict[str, Any]
    log: str

    @property
    def mean_length(self) -> float:
        """Drafted tokens per request and step that drafted."""
        return float(self.counters["num_draft_tokens"] / self.counters["num_drafts"])


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    command = [sys.executable, "-m", "integrations.vllm", "plan", "--json", "--profile", PREPARED / "profile"]
    done = subprocess.run([*command, "--draft", PREPARED / "draft"], capture_output=True, text=True, check=True)
    settings = json.loads(done.stdout)
    assert settings["speculative_config"], settings["reasons"]
    return dict(settings)


def target() -> str:
    return (PREPARED / "target").read_text(encoding="utf-8").strip()


def generate(**settings: Any) -> Run:
    module = "tests.integrations.vllm.generate"
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", module, json.dumps({"model": target(), **settings}), str(answer)]
        cores = "|".join("0" * settings.get("tensor_parallel_size", 1))  # one core for all ranks: any machine has it
        environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": cores}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        run = Run(**json.loads(answer.read_text(encoding="utf-8")), log=done.stdout + done.stderr)
    print(run.counters)  # shown by pytest -s
    return run


def controlled(plan: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the plan's settings with our scheduler, told other step times."""
    speckv = {**plan["additional_config"]["speckv"], **changed}
    return {
        "speculative_config": plan["speculative_config"],
        "scheduler_cls": SCHEDULER,
        "additional_config": {"speckv": speckv},
    }


def table(config: dict[str, Any], length: int) -> dict[str, Any]:
    """Return a speculative config with five tokens at most and one length in the engine's own table."""
    numbers = {"num_speculative_tokens": 5, "num_speculative_tokens_per_batch_size": [[1, 4, length]]}
    return {**config, **numbers}


FREE = {"draft_ms": 1e-6, "target_ms": {"1": 50.0, "257": 50.0}}
"""Step times under which nothing speaks against drafting as much as possible."""


@pytest.fixture(scope="module")
def plain() -> Run:
    return generate()


def test_planned_settings_leave_the_text_alone(plan: dict[str, Any], plain: Run) -> None:
    run = generate(**controlled(plan))
    assert run.tokens == plain.tokens
    assert "speckv chooses" in run.log
    assert run.counters["num_accepted_tokens"] > 0
    assert 1 <= run.mean_length <= plan["speculative_config"]["num_speculative_tokens"]


def test_a_free_draft_is_asked_for_all_it_may_write(plan: dict[str, Any], plain: Run) -> None:
    free = controlled(plan, **FREE)
    run = generate(**{**free, "speculative_config": table(free["speculative_config"], 1)})
    assert run.tokens == plain.tokens
    assert run.mean_length > 4  # the engine's own table says 1; the ends of texts cut some short
    assert run.counters["num_accepted_tokens_per_pos"][4] > 0


def test_a_draft_that_does_not_pay_is_hardly_asked(plan: dict[str, Any], plain: Run) -> None:
    slow = controlled(plan, target_ms={"1": 50.0, "2": 5000.0})
    run = generate(**slow)
    assert run.tokens == plain.tokens
    steps = sum(map(len, run.tokens))
    assert run.counters.get("num_draft_tokens", 0) < 0.1 * steps  # the table would have drafted at every step


def test_without_settings_the_engine_keeps_its_table(plan: dict[str, Any], plain: Run) -> None:
    config = table(plan["speculative_config"], 2)
    run = generate(speculative_config=config, scheduler_cls=SCHEDULER)
    assert run.tokens == plain.tokens
    assert run.log.count("speckv leaves the number of speculative tokens to vLLM") == 1
    assert 1.8 < run.mean_length <= 2
    assert run.counters["num_accepted_tokens_per_pos"][2:] == [0, 0, 0]


def test_three_tensor_parallel_ranks(plan: dict[str, Any], plain: Run) -> None:
    free = controlled(plan, **FREE)
    config = table(free["speculative_config"], 1)  # the draft's ranks follow the target's
    run = generate(**{**free, "speculative_config": config}, tensor_parallel_size=3)
    assert run.tokens == plain.tokens
    assert run.mean_length > 4


def test_an_ngram_draft(plan: dict[str, Any], plain: Run) -> None:
    ngram = table({"method": "ngram", "prompt_lookup_max": 2}, 1)
    run = generate(**{**controlled(plan, **FREE), "speculative_config": ngram})
    assert run.tokens == plain.tokens
    assert sum(run.counters["num_accepted_tokens_per_pos"][1:]) > 0  # the table says 1


def test_two_data_parallel_ranks_lose_their_table(plan: dict[str, Any]) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from integrations.vllm.scheduler import unsuitable

    config = table(plan["speculative_config"], 2)
    one, two = (
        EngineArgs(
            model=target(),
            dtype="float32",
            data_parallel_size=ranks,
            speculative_config=dict(config),
            additional_config=plan["additional_config"],
        ).create_engine_config()
        for ranks in (1, 2)
    )
    assert unsuitable(one) is None
    assert "data parallelism" in str(unsuitable(two))
    # What is then drafted at every step.
    assert two.speculative_config.num_speculative_tokens == config["num_speculative_tokens"]
