"""What a training run needs to go on after an interruption."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from export.drafter.students import Student
from runtime.errors import SpeckvError
from runtime.files import replacing_file


@dataclass
class Position:
    """How far a run is: seconds spent, optimizer steps, predicted tokens seen, and the next batch of which epoch.

    The order of the batches follows from the seed and the epoch alone, so this is the whole random state.
    """

    elapsed: float = 0.0
    steps: int = 0
    tokens: int = 0
    epoch: int = 0
    batch: int = 0


def save_checkpoint(path: Path, settings: dict[str, Any], position: Position, students: list[Student]) -> None:
    """Write everything at once or not at all.

    Raises:
        OSError: naming the file.
    """
    state = {
        "settings": settings,
        "position": asdict(position),
        "weights": [student.own.state_dict() for student in students],
        "optimizers": [student.optimizer.state_dict() for student in students],
    }
    with replacing_file(path, f"{path.name}.tmp") as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch trips over what it has not written because the disk is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, settings: dict[str, Any], students: list[Student]) -> Position:
    """Put the students where the checkpoint left them; without one, leave them at the start.

    Raises:
        SpeckvError: if the checkpoint is damaged or was made with other settings.
    """
    if not path.exists():
        return Position()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        _check_settings(path, state["settings"], settings)
        position = Position(**state["position"])
        for student, weights, optimizer in zip(students, state["weights"], state["optimizers"], strict=True):
            student.own.load_state_dict(weights)
            student.optimizer.load_state_dict(optimizer)
    except SpeckvError:
        raise
    except Exception as error:  # a damaged file can make torch raise anything
        raise SpeckvError(f"checkpoint {path} cannot be read ({error}): delete it to start over") from None
    return position


def _check_settings(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if found.get(name) != value:
            raise SpeckvError(
                f"checkpoint {path} was made with {name} {found.get(name)}, not {value}: "
                "repeat the command that made it, or choose another --work folder"
            )


class Stop:
    """Set by the first SIGINT or SIGTERM, so that work ends at the next safe point."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was asked for."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take the signals inside the block; a second one acts as usual."""

        def handle(number: int, _frame: Any) -> None:
            self.requested = True
            signal.signal(number, before[number])

        before: dict[int, Any] = {}
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            before[signal_number] = signal.signal(signal_number, handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
