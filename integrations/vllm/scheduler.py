"""vLLM's own scheduler, with the controller choosing how many tokens a step drafts.

vLLM takes it by `--scheduler-cls integrations.vllm.scheduler.controlled_scheduler`, and its settings by
`--additional-config`; `python -m integrations.vllm plan` prints both. Nothing of the engine is patched: the scheduler
that the engine would have used is subclassed. This module imports vLLM when the engine calls it, not before.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from integrations.vllm.controller import Controller
from integrations.vllm.times import EngineTimes
from runtime.errors import SpeckvError
from runtime.policies.guarded import described

TESTED = (0, 32)
"""The vLLM release line whose scheduler this was read and run against."""
KEY = "speckv"
"""Our entry in the engine's `additional_config`."""
SETTINGS = {"draft_ms", "target_ms", "acceptance"}
"""What is in it, by name."""
FIELD = "num_spec_tokens_to_schedule"
"""Of the engine's SchedulerOutput: tokens that the draft model writes after this step, for every request alike."""
METHODS = {
    "_update_after_schedule": ["self", "scheduler_output"],
    "update_from_output": ["self", "scheduler_output", "model_runner_output"],
}
"""What is overridden, with the parameters it must have."""

logger = logging.getLogger("vllm.speckv")


def controlled_scheduler(*, vllm_config: Any, **arguments: Any) -> Any:
    """Return the engine's own scheduler, steered by the controller where the engine and its settings allow it.

    Where they do not, it is the scheduler that vLLM would have made without us, and one warning says why.

    Args:
        vllm_config: the engine's configuration; `additional_config["speckv"]` is what the plan prints.
        arguments: passed on.

    Raises:
        SpeckvError: if there are settings, and they are not what the plan prints.
    """
    own = copy.copy(vllm_config.scheduler_config)
    own.scheduler_cls = None  # so that the engine says what it would have taken
    base = own.get_scheduler_cls()
    fault = unsupported(base) or unsuitable(vllm_config)
    if fault:
        logger.warning("speckv leaves the number of speculative tokens to vLLM: %s", fault)
        return base(vllm_config=vllm_config, **arguments)
    controller = read_settings(
        vllm_config.additional_config[KEY], vllm_config.speculative_config.num_speculative_tokens
    )
    scheduler = type(f"Controlled{base.__name__}", (Controlled, base), {})(vllm_config=vllm_config, **arguments)
    scheduler.controller = controller
    logger.info("speckv chooses up to %d speculative tokens a step", controller.longest)
    return scheduler


def unsupported(base: type) -> str | None:
    """Return why this vLLM cannot be steered; None where it can."""
    import vllm
    from vllm.v1.core.sched.output import SchedulerOutput

    if tuple(vllm.__version_tuple__[:2]) != TESTED:
        return f"vLLM {vllm.__version__} is not the tested {'.'.join(map(str, TESTED))}"
    if FIELD not in {field.name for field in dataclasses.fields(SchedulerOutput)}:
        return f"its SchedulerOutput has no {FIELD}"
    for name, parameters in METHODS.items():
        method = getattr(base, name, None)
        if method is None or list(inspect.signature(method).parameters) != parameters:
            return f"{base.__name__}.{name} does not take {', '.join(parameters)}"
    return None


def unsuitable(vllm_config: Any) -> str | None:
    """Return why the engine's settings leave nothing to choose; None where they do.

    The number of tokens changes from step to step only where the engine itself is prepared for it: its CUDA graphs
    are then captured for several lengths, and under data parallelism, where ranks must not differ, it switches its own
    table off and so us.
    """
    speculative = vllm_config.speculative_config
    if speculative is None:
        return "there is no speculative_config"
    if not speculative.num_speculative_tokens_per_batch_size:
        return (
            "num_speculative_tokens_per_batch_size is not set, or vLLM switched it off (as it does under data "
            "parallelism)"
        )
    if KEY not in (vllm_config.additional_config or {}):
        return f"additional_config has no '{KEY}'"
    return None


def read_settings(settings: Any, longest: int) -> Controller:
    """Return the controller for what `python -m integrations.vllm plan` prints for `additional_config`.

    Raises:
        SpeckvError: if it is something else.
    """
    try:
        target_ms = {int(tokens): float(ms) for tokens, ms in settings["target_ms"].items()}
        draft_ms, acceptance = float(settings["draft_ms"]), float(settings["acceptance"])
        if unknown := settings.keys() - SETTINGS:
            raise ValueError(f"nothing is called {', '.join(sorted(unknown))}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpeckvError(f"additional_config['{KEY}'] is not what the plan prints ({error!r}): make it anew") from None
    if not 0 <= acceptance <= 1:
        raise SpeckvError(f"additional_config['{KEY}']: acceptance {acceptance} is not in [0, 1]: make the plan anew")
    return Controller(EngineTimes(draft_ms, target_ms), longest, acceptance)


class Controlled:
    """Mixed in before one of vLLM's schedulers: sets the length at the end of `schedule`, learns from the output.

    A controller that fails is dropped, with a warning: the engine serves on with its own lengths.
    """

    controller: Controller | None
    updated = 0.0
    """When the last step's output came, in seconds of the monotonic clock."""

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """Choose the length; the engine calls this with the finished output of every `schedule`."""
        with self._dropped_on_failure():
            if self.controller:
                self.controller.forget(scheduler_output.finished_req_ids)
                if scheduler_output.num_scheduled_tokens:
                    setattr(scheduler_output, FIELD, self.controller.length(scheduler_output.num_scheduled_tokens))
        scheduler_output.speckv_scheduled = time.monotonic()
        super()._update_after_schedule(scheduler_output)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Tell the controller which drafted tokens stand, and what the step took."""
        with self._dropped_on_failure():
            if self.controller:
                self._observe_times(self.controller, scheduler_output)
                self._observe_tokens(self.controller, scheduler_output, model_runner_output)
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]

    @contextmanager
    def _dropped_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.controller = None
            logger.warning("speckv's controller failed (%s): vLLM chooses its lengths again", described(error))

    def _observe_tokens(self, controller: Controller, scheduler_output: Any, model_runner_output: Any) -> None:
        rows, sampled = model_runner_output.req_id_to_index, model_runner_output.sampled_token_ids
        for request, drafted in scheduler_output.scheduled_spec_decode_tokens.items():
            tokens = sampled[rows[request]] if sampled and request in rows else []
            if drafted and tokens:  # a request may have been preempted meanwhile
                controller.observe(request, len(drafted), len(tokens) - 1)

    def _observe_times(self, controller: Controller, scheduler_output: Any) -> None:
        """Time a step in which every request verified as many tokens as it then drafted: no prompts, no change."""
        now = time.monotonic()
        # With steps in flight a step begins when the one before it ends.
        begun = max(scheduler_output.speckv_scheduled, self.updated)
        self.updated = now
        scheduled, length = scheduler_output.num_scheduled_tokens, getattr(scheduler_output, FIELD)
        if scheduled and all(tokens == length + 1 for tokens in scheduled.values()):
            controller.steps.observe(len(scheduled), length, (now - begun) * 1e3)
