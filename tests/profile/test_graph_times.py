"""Step times of the fast loop in a profile: measured where there is one, and read by the replay."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from runtime.__main__ import main
from runtime.loop.backend import Backend
from runtime.profile import profile as profile_module
from runtime.profile.step_times import CHAIN, CONTEXT, DRAFT_WIDTHS, GRAPH_WIDTHS, SPARED_WIDTH


class FakePair:
    """The calls of a `GraphPair` that are timed; nothing is computed."""

    texts = 1

    def __init__(self) -> None:
        self.starts = torch.zeros(1, dtype=torch.int32)
        self.log: list[tuple[str, int]] = []

    def begin(self, prompts: list[list[int]]) -> None:
        self.starts.fill_(len(prompts[0]) - 1)

    def foresee(self, stopper: object) -> None:
        self.foresees = stopper is not None

    def draft(self, slot: int, unseen: int) -> None:
        assert slot == 0 or unseen == 1
        assert slot < CHAIN
        self.begun = slot
        self.log.append(("foreseen" if self.foresees else "draft", unseen))

    def drafted(self, slot: int) -> None:
        assert self.log[-1][0] in ("draft", "foreseen")
        assert slot <= self.begun
        time.sleep(0.0003 if slot else 0.001)  # what is begun behind another takes less

    def verify(self, gammas: list[int], spares: Mapping[int, list[int]] | None = None) -> None:
        assert self.starts.tolist() == [CONTEXT - 1]  # every call at the same length
        self.log.append(("spared", gammas[0] + 1 + len(spares[0])) if spares else ("target", gammas[0] + 1))

    def verified(self) -> None:
        self.starts += 3


def profile(target: Path, prompts: Path, output: Path, *more: str) -> int:
    pair = ["--target", str(target), "--draft", "early-exit:2", "--device", "cpu", "--precision", "fp32", *more]
    return main(["profile", *pair, "--prompts", str(prompts), "--max-new-tokens", "4", "--output", str(output)])


def test_the_fast_loops_times_stand_beside_the_eager_ones_and_are_replayed(
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "profile"
    assert profile(target_folder, prompts_file, output) == 0
    path = output / "step_times_ms.json"
    eager = json.loads(path.read_text())
    assert not any(key.startswith("graph") for times in eager.values() for key in times)

    fake, asked = FakePair(), []

    def choose(draft: PreTrainedModel, target: PreTrainedModel, tokens: int, _sampling: object) -> Backend:
        asked.append(tokens)
        return Backend(draft, target, fake, "CUDA graphs")  # type: ignore[arg-type]

    monkeypatch.setattr(profile_module, "choose_backend", choose)
    for _ in range(2):  # continued, an older profile is given what it lacks, once
        assert profile(target_folder, prompts_file, output) == 0
    assert len(asked) == 1
    assert asked[0] >= CONTEXT + max(GRAPH_WIDTHS)
    calls = {("draft", width) for width in DRAFT_WIDTHS} | {("target", q) for q in GRAPH_WIDTHS}
    assert set(fake.log) == calls | {("foreseen", 1), ("spared", SPARED_WIDTH)}
    times = json.loads(path.read_text())
    widths = {f"{kind}{width}" for kind in ("eager", "graph") for width in DRAFT_WIDTHS}
    assert times["draft"].keys() == widths | {"chained1", "foreseen1"}
    of_graphs = {f"graph{width}" for width in GRAPH_WIDTHS} | {f"spared{SPARED_WIDTH}"}
    assert of_graphs == times["fp32"].keys() - eager["fp32"].keys()
    assert {key: times["fp32"][key] for key in eager["fp32"]} == eager["fp32"]

    capsys.readouterr()
    replay = ["replay", "--traces", str(output / "fp32.npz"), "--step-times", str(path), "--backend", "graph"]
    assert main([*replay, "--policies", "fixed:2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["backend"] == "graph"
