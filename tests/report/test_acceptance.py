"""Acceptance by place, against counts by hand."""

from __future__ import annotations

import pytest

from runtime.report.acceptance import acceptance_by_task
from tests.replay.tiny import random_texts, text


def test_counts_by_hand() -> None:
    # Drafts begin at four positions; they could be 4, 3, 2 and 1 tokens long before the text ends.
    acceptance = acceptance_by_task([text([2, 3, 0, 1])])["code"]
    assert acceptance.conditional[:4] == pytest.approx([3 / 4, 2 / 2, 1 / 2, None])
    assert acceptance.survival[:4] == pytest.approx([3 / 4, 3 / 4, 3 / 8, None])
    assert acceptance.conditional[4:] == acceptance.survival[4:] == [None] * 12


def test_what_the_end_of_a_text_cuts_off_is_no_rejection() -> None:
    acceptance = acceptance_by_task([text([5, 4, 3, 2, 1])])["code"]
    assert acceptance.conditional[:5] == acceptance.survival[:5] == [1, 1, 1, 1, 1]


def test_tasks_add_up() -> None:
    texts = random_texts(5)
    by_task = acceptance_by_task(texts)
    assert set(by_task) == {"overall", "code", "chat"}
    places = {task: sum(t.positions for t in texts if t.task == task) for task in ("code", "chat")}
    first = sum(by_task[task].survival[0] * count for task, count in places.items())  # type: ignore[operator]
    assert by_task["overall"].survival[0] == pytest.approx(first / sum(places.values()))
