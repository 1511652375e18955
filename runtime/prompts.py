"""Prompts to run a pair on: the default set written for this project, or the user's own JSONL file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import SpeckvError
from runtime.files import read_within

TASKS = ("code", "math", "chat", "summarization")
"""The tasks of the default set, as in the published step records."""

DEFAULT_PROMPTS = Path(__file__).resolve().parent / "data" / "prompts.jsonl"

LARGEST = 64 << 20
"""Bytes of a file of prompts."""

OVERALL = "overall"
"""What results call all tasks together; no task may be called so."""
_TASK_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Prompt:
    """One user message: its place in the file (from 0), its task, its text."""

    index: int
    task: str
    text: str


def read_prompts(path: Path | None = None) -> list[Prompt]:
    """Read JSONL lines `{"task": ..., "prompt": ...}`; without a path, the default set. Empty lines are skipped.

    Raises:
        SpeckvError: naming the file, the line (from 1) and the field at fault.
    """
    path = path or DEFAULT_PROMPTS
    advice = "give a JSONL file of prompts in UTF-8"
    prompts: list[Prompt] = []
    try:
        lines = read_within(path, LARGEST, advice).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SpeckvError(f"{path} cannot be read ({error}): {advice}") from None
    for number, line in enumerate(lines, start=1):  # a JSON text may hold every other line end
        if line.strip():
            prompts.append(_parse(line, len(prompts), f"{path}, line {number}"))
    if not prompts:
        raise SpeckvError(f'{path} holds no prompts: write lines {{"task": "chat", "prompt": "..."}}')
    return prompts


def first_of_each_task(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return the first `count` prompts of every task, in their order."""
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    chosen = {p.index for task in tasks for p in [p for p in prompts if p.task == task][:count]}
    return [prompt for prompt in prompts if prompt.index in chosen]


def check_task(task: str, what: str) -> None:
    """Refuse a task's name that a terminal, a page or a key cannot take, or that stands for all tasks.

    Raises:
        SpeckvError: which begins with `what`.
    """
    if not _TASK_NAME.fullmatch(task):
        raise SpeckvError(f"{what} may hold letters, digits, '_' and '-' only, not '{task}'")
    if task == OVERALL:
        raise SpeckvError(f"{what} is '{OVERALL}', which results call all tasks together: give it another name")


def _parse(line: str, index: int, place: str) -> Prompt:
    try:
        record = json.loads(line)
    except RecursionError:
        raise SpeckvError(f"{place}: not JSON (nested too deeply)") from None
    except ValueError as error:
        raise SpeckvError(f"{place}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise SpeckvError(f'{place}: not an object {{"task": ..., "prompt": ...}}')
    unknown = sorted(record.keys() - {"task", "prompt"})
    if unknown:
        raise SpeckvError(f"{place}: unknown field '{unknown[0]}', only 'task' and 'prompt' are read")
    for field in ("task", "prompt"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise SpeckvError(f"{place}: field '{field}' must be a non-empty text")
        if any("\ud800" <= character <= "\udfff" for character in record[field]):
            raise SpeckvError(f"{place}: field '{field}' holds half of a surrogate pair, which is no text")
    check_task(record["task"], f"{place}: field 'task'")
    return Prompt(index, record["task"], record["prompt"])
