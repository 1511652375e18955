"""The training loop: every candidate on the same batches, against target states computed beforehand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor
from transformers import PreTrainedModel

from export.drafter.checkpoint import Position, Stop, load_checkpoint, save_checkpoint
from export.drafter.corpus import Batch, Collator, batch_plan
from export.drafter.loss import GradientRule, distil, kl_gradient
from export.drafter.students import Student

LEARNING_RATE = 1.5e-3
WARM_UP = 0.02
FINAL_SHARE = 0.01
"""The learning rate ends at this share of its peak."""
CHECKPOINT_SECONDS = 60.0
REPORT_STEPS = 20


@dataclass
class Trainer:
    """Everything one run needs. `budget` is in seconds; `settings` is what a checkpoint must agree with."""

    target: PreTrainedModel
    students: list[Student]
    collate: Collator
    states: Tensor
    batch_tokens: int
    budget: float
    settings: dict[str, Any]
    checkpoint: Path
    stop: Stop

    def run(self, progress: Progress, on_report: Callable[[Position, Tensor], None] | None = None) -> Position:
        """Train until the budget is spent; return the position reached.

        `on_report` is given, every 20 steps, the mean KL in nats and the top-1 agreement, `[students, 2]`.

        Raises:
            KeyboardInterrupt: after a stop was requested; the checkpoint is written first.
        """
        position = load_checkpoint(self.checkpoint, self.settings, self.students)
        if position.elapsed >= self.budget:
            return position
        rule = self._compile(progress)
        report = _Report(progress, self.students, position.elapsed, self.budget, on_report)
        begun, saved = time.monotonic() - position.elapsed, time.monotonic()
        try:
            while position.elapsed < self.budget:
                for batch in self._epoch(position):
                    sums = self._step(batch, learning_rate(position.elapsed / self.budget), rule)
                    position.steps, position.batch = position.steps + 1, position.batch + 1
                    position.tokens += len(batch.slots)
                    position.elapsed = time.monotonic() - begun
                    report.add(position, sums, len(batch.slots))
                    if self.stop.requested or position.elapsed >= self.budget:
                        break
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self._save(position)
                        saved = time.monotonic()
                else:
                    position.epoch, position.batch = position.epoch + 1, 0
                self.stop.check()
        finally:
            self._save(position)
            self._uncompile()
        return position

    def _epoch(self, position: Position) -> Iterator[Batch]:
        plan = batch_plan(self.collate.documents, self.batch_tokens, self.settings["seed"], position.epoch)
        for chosen in plan[position.batch :]:
            yield self.collate(chosen)

    def _step(self, batch: Batch, rate: float, rule: GradientRule) -> Tensor:
        """One optimizer step of every student; returns sums `[students, 2]` as `distil` does."""
        sums = self._backward(batch, rule)
        for student in self.students:
            torch.nn.utils.clip_grad_norm_(student.parameters, 1.0)
            for group in student.optimizer.param_groups:
                group["lr"] = rate
            student.optimizer.step()
            student.optimizer.zero_grad(set_to_none=True)
        return sums

    def _backward(self, batch: Batch, rule: GradientRule) -> Tensor:
        device = self.target.device
        hidden = []
        for student in self.students:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = student.model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            hidden.append(output.flatten(0, 1)[batch.positions])
        states = self.states[batch.slots.to(self.states.device)].to(device)
        head = self.target.get_output_embeddings().weight
        gradients, sums = distil([state.detach() for state in hidden], states, head, rule)
        for state, gradient in zip(hidden, gradients, strict=True):
            state.backward(gradient)
        return sums

    def _compile(self, progress: Progress) -> GradientRule:
        """Compile the decoder layers (all alike, so compiled once) and the loss; stay eager where that fails.

        Two batches of different widths make the compiler see all it must, before the budget's clock starts.
        """
        if self.target.device.type != "cuda":
            return kl_gradient
        for layer in self._layers():
            layer.compile()
        rule: GradientRule = torch.compile(kl_gradient)
        task = progress.add_task("compiling", total=3)
        try:
            plan = sorted(batch_plan(self.collate.documents, self.batch_tokens, seed=0, epoch=0), key=len)
            for chosen in (plan[len(plan) // 4], plan[3 * len(plan) // 4], plan[len(plan) // 2]):
                self._backward(self.collate(chosen), rule)
                torch.cuda.synchronize()
                progress.advance(task)
        except Exception as error:  # whatever the compiler raises costs speed, not the run
            progress.console.print(f"torch.compile does not work here, training without it: {str(error)[:300]}")
            self._uncompile()
            rule = kl_gradient
        for student in self.students:
            student.optimizer.zero_grad(set_to_none=True)
        return rule

    def _uncompile(self) -> None:
        """Leave plain layers: measuring them once in another precision is not worth another compilation."""
        for layer in self._layers():
            layer._compiled_call_impl = None

    def _layers(self) -> list[Any]:
        return [layer for student in self.students for layer in student.model.base_model.layers]

    def _save(self, position: Position) -> None:
        save_checkpoint(self.checkpoint, self.settings, position, self.students)


def learning_rate(share: float) -> float:
    """Return the rate at this share of the time budget: linear warm-up, then half a cosine."""
    if share < WARM_UP:
        return LEARNING_RATE * max(share, 1e-3) / WARM_UP
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP) / (1 - WARM_UP))))
    return LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


class _Report:
    """Running means since the last report, read from the device only every 20 steps."""

    def __init__(
        self,
        progress: Progress,
        students: list[Student],
        begin: float,
        budget: float,
        on_report: Callable[[Position, Tensor], None] | None,
    ) -> None:
        self.progress, self.students, self.on_report = progress, students, on_report
        self.task: TaskID = progress.add_task("training", total=budget)
        progress.update(self.task, completed=begin)
        self._clear(begin)

    def _clear(self, elapsed: float) -> None:
        self.sums: Tensor | None = None
        self.tokens = self.steps = 0
        self.since = elapsed

    def add(self, position: Position, sums: Tensor, tokens: int) -> None:
        """Take one step's sums `[students, 2]`."""
        self.sums = sums if self.sums is None else self.sums + sums
        self.tokens, self.steps = self.tokens + tokens, self.steps + 1
        if self.steps < REPORT_STEPS:
            return
        means = (self.sums / self.tokens).cpu()
        rate = self.tokens / max(position.elapsed - self.since, 1e-9)
        losses = "  ".join(
            f"{len(student.source_layers)} layers: loss {kl:.3f} top-1 {agreed:.3f}"
            for student, (kl, agreed) in zip(self.students, means.tolist(), strict=True)
        )
        text = f"training  {losses}  {rate / 1e3:.0f} k tok/s"
        self.progress.update(self.task, description=text, completed=position.elapsed)
        if self.on_report:
            self.on_report(position, means)
        self._clear(position.elapsed)
