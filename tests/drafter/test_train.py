from __future__ import annotations

import itertools
import math
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedModel

from export.drafter import train
from export.drafter.checkpoint import Position, Stop, load_checkpoint, save_checkpoint
from export.drafter.corpus import Collator, Documents
from export.drafter.states import target_states
from export.drafter.students import make_student, source_layers
from export.drafter.train import LEARNING_RATE, Trainer, learning_rate
from runtime.errors import SpeckvError

SETTINGS = {"layers": [1, 2], "seed": 5}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a look at the clock take a hundredth of a second, whatever the machine: a step is two looks."""
    ticks = itertools.count()
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 100))


def trainer(target: PreTrainedModel, documents: Documents, folder: Path, **changes: Any) -> Trainer:
    collate = Collator(documents, torch.device("cpu"))
    parts: dict[str, Any] = {
        "target": target,
        "students": [make_student(target, layers, LEARNING_RATE) for layers in (1, 2)],
        "collate": collate,
        "states": target_states(target, collate, Progress(disable=True)),
        "batch_tokens": 512,
        "budget": 6.0,
        "settings": SETTINGS,
        "checkpoint": folder / "checkpoint.pt",
        "stop": Stop(),
    }
    return Trainer(**{**parts, **changes})


def test_source_layers_spread_from_first_to_last() -> None:
    assert source_layers(4, 30) == [0, 10, 19, 29]
    assert source_layers(2, 30) == [0, 29]
    assert source_layers(1, 30) == [29]
    assert source_layers(4, 4) == [0, 1, 2, 3]
    with pytest.raises(SpeckvError, match="30 layers"):
        source_layers(31, 30)


def test_a_drafter_of_all_layers_is_the_target(target: PreTrainedModel) -> None:
    student = make_student(target, 4, LEARNING_RATE)
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    torch.testing.assert_close(student.model(tokens).logits, target(tokens).logits)
    assert student.model.lm_head is target.lm_head
    assert not any(weight is target.lm_head.weight for weight in student.parameters)


def test_states_are_the_targets_in_corpus_order(target: PreTrainedModel, documents: Documents) -> None:
    states = target_states(target, Collator(documents, torch.device("cpu")), Progress(disable=True))
    third = documents.tokens[documents.lengths[:2].sum() : documents.lengths[:3].sum()]
    hidden = target.model(torch.tensor(third[None].astype("int64"))).last_hidden_state[0]
    begin = int(documents.predicted[:2].sum())
    expected = hidden[documents.prompts[2] - 1 : -1]
    torch.testing.assert_close(states[begin : begin + len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss_and_raises_agreement(
    target: PreTrainedModel, documents: Documents, tmp_path: Path
) -> None:
    reports: list[Tensor] = []
    run = trainer(target, documents, tmp_path)
    position = run.run(Progress(disable=True), lambda _, means: reports.append(means))
    first, last = reports[0], reports[-1]
    assert (last[:, 0] < 0.7 * first[:, 0]).all()
    assert (last[:, 1] > first[:, 1] + 0.05).all()
    assert position.steps > 20
    assert position.epoch > 0
    assert torch.equal(target.lm_head.weight, target.get_input_embeddings().weight)


def test_a_stopped_run_goes_on_where_it_was(target: PreTrainedModel, documents: Documents, tmp_path: Path) -> None:
    stop = Stop()

    def request(*_: object) -> None:
        stop.requested = True

    first = trainer(target, documents, tmp_path, stop=stop, budget=60.0)
    with pytest.raises(KeyboardInterrupt):
        first.run(Progress(disable=True), request)
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint.pt"]

    second = trainer(target, documents, tmp_path, budget=60.0)
    position = load_checkpoint(second.checkpoint, second.settings, second.students)
    assert position.steps == 20
    assert 0 < position.elapsed < 60
    for before, after in zip(first.students, second.students, strict=True):
        for name, weight in before.own.state_dict().items():
            assert torch.equal(weight, after.own.state_dict()[name])
        moments = [state["exp_avg"] for state in before.optimizer.state.values()]
        loaded = [state["exp_avg"] for state in after.optimizer.state.values()]
        assert all(torch.equal(a, b) for a, b in zip(moments, loaded, strict=True))

    second.budget = position.elapsed + 0.2
    went_on = second.run(Progress(disable=True))
    assert went_on.steps > 20
    assert went_on.tokens > position.tokens


def test_a_finished_run_is_not_repeated(target: PreTrainedModel, documents: Documents, tmp_path: Path) -> None:
    done = trainer(target, documents, tmp_path, budget=0.3).run(Progress(disable=True))
    assert trainer(target, documents, tmp_path, budget=0.3).run(Progress(disable=True)) == done


def test_a_checkpoint_of_other_settings_is_refused(
    target: PreTrainedModel, documents: Documents, tmp_path: Path
) -> None:
    trainer(target, documents, tmp_path, budget=0.1).run(Progress(disable=True))
    other = trainer(target, documents, tmp_path, settings={**SETTINGS, "seed": 6})
    with pytest.raises(SpeckvError, match=r"made with seed 5, not 6.*--work"):
        other.run(Progress(disable=True))
    (tmp_path / "checkpoint.pt").write_bytes(b"half a fi")
    with pytest.raises(SpeckvError, match="cannot be read"):
        other.run(Progress(disable=True))


def test_a_full_disk_is_said_with_the_file_and_leaves_the_old_checkpoint(
    target: PreTrainedModel, documents: Documents, tmp_path: Path
) -> None:
    path, students = tmp_path / "checkpoint.pt", [make_student(target, 1, LEARNING_RATE)]
    path.write_bytes(b"the old one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_checkpoint(path, SETTINGS, Position(), students)
        assert caught.value.filename == str(path)
        with pytest.raises(OSError, match="File too large") as caught:
            documents.save(tmp_path / "text.npz")
        assert caught.value.filename == str(tmp_path / "text.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"the old one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_learning_rate_warms_up_then_falls() -> None:
    rates = [learning_rate(share / 100) for share in range(101)]
    assert rates[0] < rates[1] < rates[2] == max(rates)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert math.isclose(rates[2], LEARNING_RATE)
    assert 0 < rates[-1] < 0.02 * LEARNING_RATE
