from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export.drafter.corpus import Collator, Documents, batch_plan, machine_text


def test_plan_reads_every_document_once_and_repeats_by_seed(documents: Documents) -> None:
    plan = batch_plan(documents, 256, seed=1, epoch=0)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(documents)))
    again, other = batch_plan(documents, 256, 1, 0), batch_plan(documents, 256, 1, 1)
    assert all((a == b).all() for a, b in zip(plan, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(plan, other, strict=True))


def test_batch_predicts_exactly_the_tokens_after_the_prompt() -> None:
    documents = Documents.of([[10, 11, 12, 13], [20, 21, 22], [30, 31, 32, 33, 34]], [2, 1, 4])
    batch = Collator(documents, torch.device("cpu"))(np.array([2, 0]))
    assert batch.input_ids[:, :5].tolist() == [[30, 31, 32, 33, 34], [10, 11, 12, 13, 0]]
    assert batch.labels.tolist() == [34, 12, 13]
    assert batch.slots.tolist() == [4, 0, 1]  # document 0 has slots 0 and 1, document 1 has 2 and 3, document 2 has 4
    assert batch.input_ids.flatten()[batch.positions].tolist() == [33, 11, 12]


def test_documents_survive_the_disk(tmp_path: Path, documents: Documents) -> None:
    documents.save(tmp_path / "a.npz", seconds=1.5)
    loaded = Documents.load(tmp_path / "a.npz")
    assert (loaded.tokens == documents.tokens).all()
    assert (loaded.lengths == documents.lengths).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_machine_text_is_a_deterministic_sample(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.py").write_text(f"# {number}\n" * 500, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"x" * 5000)

    def tokenizer(text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    first = machine_text(tokenizer, 3000, 42, [tmp_path])
    again = machine_text(tokenizer, 3000, 42, [tmp_path])
    assert (first.tokens == again.tokens).all()
    assert 3000 <= first.lengths.sum() <= 6000
    assert ord("x") not in first.tokens
