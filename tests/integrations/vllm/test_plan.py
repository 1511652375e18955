from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from integrations.vllm.__main__ import main
from integrations.vllm.controller import Controller
from integrations.vllm.plan import LARGEST_BATCH, OneRequest, Plan, make_plan
from runtime.pair.draft import load_draft
from runtime.pair.target import load_target
from runtime.policies.fixed import Fixed
from runtime.policies.step_times import StepTimes
from runtime.replay.replay import replay
from runtime.replay.traces import read_traces
from tests.replay.tiny import random_texts

TARGET = {"eager1": 20.0, "eager9": 24.0, "eager65": 120.0}


def write_profile(folder: Path, target: dict[str, float] | None = None, **manifest: Any) -> Path:
    folder.mkdir()
    begun = {"target": "some/target", "draft": "some/draft", "precisions": ["bf16"], **manifest}
    (folder / "manifest.json").write_text(json.dumps(begun), encoding="utf-8")
    times = {"draft": {"eager1": 2.0, "eager2": 2.5}, "bf16": target or TARGET}
    (folder / "step_times_ms.json").write_text(json.dumps(times), encoding="utf-8")
    arrays = {}
    for text in random_texts(seed=3, count=12):
        flags = np.arange(16)[None] < np.array(text.accepted)[:, None]
        arrays[text.key] = np.concatenate([flags[..., None], np.array(text.rollouts)], axis=-1).astype(np.float16)
    np.savez(folder / "bf16.npz", **arrays)
    return folder


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile")


def rates(plan: Plan, folder: Path, batch: int) -> list[float]:
    """Return tokens per millisecond by length, by replaying with the engine's costs."""
    texts, times = read_traces(folder / "bf16.npz"), StepTimes({1: 2.0}, {1: 20.0})
    found = []
    for length in range(17):
        steps = [step for run in replay(texts, Fixed(length), times) for step in run.steps]
        found.append(batch * sum(step.accepted + 1 for step in steps) / len(steps) / plan.times.step(batch, length))
    return found


def test_the_table_holds_the_best_length_of_every_batch_size(profile: Path) -> None:
    plan = make_plan(profile)
    assert len({entry.length for entry in plan.table}) > 2  # else nothing is shown here
    places = [(entry.first, entry.last) for entry in plan.table]
    assert places[0][0] == 1
    assert places[-1][1] == LARGEST_BATCH
    assert all(after[0] == before[1] + 1 for before, after in pairwise(places))
    for batch in (1, 3, 8, 20, 32, 33, 200):
        (entry,) = (entry for entry in plan.table if entry.first <= batch <= entry.last)
        known = [rate if not n or batch * (n + 1) <= 65 else 0.0 for n, rate in enumerate(rates(plan, profile, batch))]
        assert known[entry.length] == max(known)


def test_ratios_are_to_the_engine_without_a_draft_model(profile: Path) -> None:
    plan = make_plan(profile)
    first = plan.table[0]
    ratios = [
        rates(plan, profile, n)[first.length] * plan.times.target(n) / n for n in range(first.first, first.last + 1)
    ]
    assert (first.least, first.most) == pytest.approx((min(ratios), max(ratios)))
    faster = [n for n in range(1, 33) if max(rates(plan, profile, n)[: 65 // n]) * plan.times.target(n) / n > 1]
    assert plan.last_faster == max(faster)
    last = plan.table[-1]
    assert last.length == 0
    assert last.tokens_per_step == 1
    assert last.most < 1  # the draft model reads all the same


def test_the_controller_is_replayed_with_room_above_the_table(profile: Path) -> None:
    plan = make_plan(profile)
    longest = max(entry.length for entry in plan.table)
    assert plan.longest == min(2 * longest, 16)
    times = StepTimes({1: 2.0}, {1: 20.0})
    policy = OneRequest(Controller(plan.times, plan.longest, plan.acceptance))
    runs = replay(read_traces(profile / "bf16.npz"), policy, times)
    steps = [step for run in runs for step in run.steps]
    milliseconds = sum(plan.times.step(1, step.gamma) for step in steps)
    assert plan.controlled_ratio == pytest.approx(
        sum(step.accepted + 1 for step in steps) * plan.times.target(1) / milliseconds, rel=1e-3
    )  # the plan starts at the acceptance before it was rounded


def test_what_is_printed_is_what_the_engine_takes(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--profile", str(profile), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    speculative = printed["speculative_config"]
    assert speculative["model"] == "some/draft"
    assert speculative["method"] == "draft_model"
    table = speculative["num_speculative_tokens_per_batch_size"]
    assert table == [[row["first"], row["last"], row["length"]] for row in printed["table"]]
    speckv = printed["additional_config"]["speckv"]
    assert speckv["target_ms"] == {"1": 20.0, "9": 24.0, "65": 120.0}
    assert "--dtype bfloat16" in printed["command"]
    module, _, name = printed["scheduler_cls"].rpartition(".")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_every_choice_has_its_sentence(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--profile", str(profile)]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = make_plan(profile)
    # What was replayed, the table, its use, the scheduler, data parallelism, the command.
    assert len(lines) == 1 + len(plan.table) + 3 + 2
    assert f"num_speculative_tokens, here {plan.longest}" in lines[-3]
    assert lines[-5] == f"Beyond {plan.last_faster} requests at once vLLM is faster without a draft model."
    assert f"{plan.table[0].tokens_per_step:.2f} tokens a step" in lines[1]
    assert "beyond 32 requests" in lines[len(plan.table)]


def test_where_no_length_pays_there_is_no_speculative_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_profile(tmp_path / "steep", {"eager1": 1.0, "eager65": 650.0})
    assert main(["plan", "--profile", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["speculative_config"] is printed["scheduler_cls"] is printed["additional_config"] is None
    assert printed["command"] == "vllm serve some/target --dtype bfloat16"
    assert all(entry["most"] < 1 for entry in printed["table"])
    assert "better off without" in printed["reasons"][-1]


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "borrowed draft": ({"draft": "default"}, [], "export-draft"),
    "early exit": ({"draft": "early-exit:2"}, [], "export-draft"),
    "two precisions": ({"precisions": ["bf16", "nf4"]}, [], "give --precision one of bf16, nf4"),
    "unknown precision": ({}, ["--precision", "nf4"], "holds no nf4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, options, words = REFUSED[case]
    folder = write_profile(tmp_path / "profile", **manifest)
    assert main(["plan", "--profile", str(folder), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_profile(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    assert main(["plan", "--profile", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_draft_can_be_named(tmp_path: Path) -> None:
    assert make_plan(write_profile(tmp_path / "profile", draft="default"), draft="drafts/mine").draft == "drafts/mine"


def test_an_exported_draft_is_the_draft(target_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "drafts" / "mine"
    arguments = ["export-draft", "--target", str(target_folder), "--draft", "early-exit:1", "--output", str(output)]
    assert main(arguments) == 0
    assert main(arguments) == 2  # nothing is overwritten
    assert [path.name for path in output.parent.iterdir()] == ["mine"]
    exported = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float16)
    target = load_target(str(target_folder), "fp16", "cpu")
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.inference_mode():
        assert torch.equal(exported(ids).logits, load_draft("early-exit:1", target).eval()(ids).logits)
    assert exported.config.num_hidden_layers == 1
    assert AutoTokenizer.from_pretrained(output).get_vocab() == target.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("error", "code", "said"), [(KeyboardInterrupt, 130, "interrupted\n"), (BrokenPipeError, 141, "")]
)
def test_an_interrupt_and_a_reader_that_leaves_end_in_no_traceback(
    error: type[BaseException],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(*_: object) -> None:
        raise error

    monkeypatch.setattr("integrations.vllm.__main__.make_plan", end)
    monkeypatch.setattr("integrations.vllm.__main__.discard_output", lambda: None)
    assert main(["plan", "--profile", "any"]) == code
    assert capsys.readouterr().err == said
