"""`python -m runtime generate`: a text from a draft/target pair, streamed, or many side by side, and what they cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.commands.arguments import LARGEST_SEED, Subparsers, add_command, add_pair, whole_number
from runtime.errors import SpeckvError
from runtime.policies.registry import NAMES, TIMED, UNTIMED_NAMES, make_policy
from runtime.prompts import Prompt, read_prompts
from runtime.terminal import open_console

if TYPE_CHECKING:
    from runtime.loop.backend import Backend
    from runtime.loop.generate import Step
    from runtime.loop.sampling import Sampling
    from runtime.loop.scorer import Scorer
    from runtime.loop.statistics import Statistics
    from runtime.pair.target import Target
    from runtime.policies.policy import Policy

ROWS = 16


def add_parser(subparsers: Subparsers) -> None:
    """Add the `generate` command."""
    parser = add_command(
        subparsers,
        "generate",
        run,
        "Generate a text losslessly with a draft/target pair.",
        'python -m runtime generate "Write a haiku about compilers." --max-new-tokens 60',
    )
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("prompt", nargs="?", metavar="PROMPT")
    prompt.add_argument("--prompts", type=Path, metavar="JSONL", help='many: lines {"task": …, "prompt": …}')
    parser.add_argument(
        "--rows", type=whole_number(1), metavar="N", help=f"of --prompts, texts side by side (default: {ROWS})"
    )
    add_pair(parser)
    parser.add_argument("--target-precision", metavar="P", help="fp32, bf16, fp16, int8 or nf4")
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument("--device-map", choices=("auto",), help="spread the target's layers over all GPUs")
    spread.add_argument("--tensor-parallel", action="store_true", help="split every layer; run under torchrun")
    parser.add_argument(
        "--policy", metavar="POLICY", help=f"{NAMES} (default: adaptive, or speckv with --tensor-parallel)"
    )
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (the default) is greedy")
    parser.add_argument(
        "--top-k", type=whole_number(0), default=0, metavar="K", help="0 (the default) keeps all tokens"
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), metavar="N", help="of what is drawn (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Load the pair, and generate what was asked for."""
    _check(options)
    prompts = read_prompts(options.prompts) if options.prompts else []
    import torch  # without it nothing below can be imported, and this names what is missing

    from runtime.loop.sampling import Sampling
    from runtime.pair.draft import check_draft

    check_draft(options.draft, options.target)
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()  # by who calls this
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    target, encoded, backend, policies = _prepare(options, prompts, sampling)
    if prompts:
        _generate_all(options, prompts, encoded, target, backend, policies, sampling)
    else:
        _generate_one(options, encoded[0], target, backend, policies[0], sampling)
    if options.tensor_parallel and not grouped and torch.distributed.is_initialized():
        # Not after an error: a process that fails alone might wait here for the others, instead of ending them.
        torch.distributed.destroy_process_group()
    return 0


def _prepare(
    options: argparse.Namespace, prompts: Sequence[Prompt], sampling: Sampling
) -> tuple[Target, list[list[int]], Backend, list[Policy]]:
    """Load the pair, encode the prompts, choose the loop and a policy for each of its rows; stderr says what is under
    way."""

    from runtime.loop.backend import choose_backend
    from runtime.loop.scorer import cached_pair
    from runtime.pair.draft import load_draft
    from runtime.pair.target import load_target

    console = open_console(stderr=True)
    console.quiet = not _speaks(options)
    placement = "tensor parallel" if options.tensor_parallel else options.device_map or "one device"
    with console.status("loading the models") as status:
        target = load_target(options.target, options.target_precision, options.device, placement)
        draft = load_draft(options.draft, target)
        encoded = [target.encode(prompt.text) for prompt in prompts] or [target.encode(options.prompt)]
        _check_lengths(options, prompts, encoded, cached_pair(draft, target.model))
        status.update("preparing the loop; the first time, its kernels are compiled")
        longest = max(map(len, encoded)) + options.max_new_tokens
        backend = choose_backend(draft, target.model, longest, sampling, min(options.rows or ROWS, len(encoded)))
        policies = _policies(
            options, backend, target,
            lambda: console.print("measuring the pair's step times, once for this machine", soft_wrap=True),
        )  # fmt: skip
    return target, encoded, backend, policies


def _generate_one(
    options: argparse.Namespace,
    prompt: list[int],
    target: Target,
    backend: Backend,
    policy: Policy,
    sampling: Sampling,
) -> None:
    """Generate after the one prompt, stream and summarise; of a text that an error or the user ends, what there is."""
    import torch
    from transformers import TextStreamer

    from runtime.loop.statistics import summarise

    speaks = _speaks(options)
    printer = TextStreamer(target.tokenizer, skip_special_tokens=True) if speaks and not options.json else None
    steps: list[Step] = []
    start = time.perf_counter()
    try:
        for step in backend.steps(
            prompt,
            policy,
            max_new_tokens=options.max_new_tokens,
            sampling=sampling,
            eos=target.eos,
            seed=options.seed or 0,
        ):
            steps.append(step)
            if printer:
                printer.put(torch.tensor(step.tokens))
    finally:
        if steps:
            statistics = summarise(steps, time.perf_counter() - start)
            if printer:
                printer.end()
                _print_statistics(statistics, options.policy, target.precision, backend.why)
            elif speaks:
                summary = {"text": _decode(target, steps), "precision": target.precision, "loop": backend.why}
                print(json.dumps(summary | dataclasses.asdict(statistics)))


def _generate_all(
    options: argparse.Namespace,
    prompts: Sequence[Prompt],
    encoded: Sequence[list[int]],
    target: Target,
    backend: Backend,
    policies: Sequence[Policy],
    sampling: Sampling,
) -> None:
    """Generate after every prompt of a file; print each text when it has ended, and summarise them all."""
    from runtime.loop.statistics import summarise
    from runtime.loop.texts import Text

    speaks = _speaks(options)
    texts = [Text(prompt, options.max_new_tokens, target.eos) for prompt in encoded]
    everything: list[Step] = []
    start = time.perf_counter()
    for number, steps in backend.texts(texts, policies, sampling=sampling, seed=options.seed or 0):
        everything += steps
        prompt, text, statistics = (
            prompts[number],
            _decode(target, steps),
            summarise(steps, time.perf_counter() - start),
        )
        line = {"prompt": prompt.index, "task": prompt.task, "text": text, "precision": target.precision}
        line |= {"loop": backend.why, **dataclasses.asdict(statistics)}
        del line["tokens_per_second"]  # its seconds are those of all texts until then
        if speaks:
            print(json.dumps(line) if options.json else f"prompt {prompt.index} ({prompt.task}):\n{text}\n", flush=True)
    if speaks and not options.json:
        statistics = summarise(everything, time.perf_counter() - start)
        _print_statistics(statistics, options.policy, target.precision, f"{backend.why}, rows: {backend.rows}")


def _decode(target: Target, steps: Sequence[Step]) -> str:
    text: str = target.tokenizer.decode([token for step in steps for token in step.tokens], skip_special_tokens=True)
    return text


def _speaks(options: argparse.Namespace) -> bool:
    """Every process of a tensor parallel target runs the same loop; the first one speaks."""
    return not options.tensor_parallel or os.environ.get("RANK", "0") == "0"


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant before any model is loaded; fill in the default policy."""
    if options.policy is None:
        options.policy = "speckv" if options.tensor_parallel else "adaptive"
    if options.policy not in TIMED:
        make_policy(options.policy, "fp16")
    elif options.tensor_parallel:
        raise SpeckvError(
            f"policy '{options.policy}' weighs measured times, and the processes of --tensor-parallel measure "
            f"different ones: choose from {UNTIMED_NAMES}"
        )
    if options.rows and not options.prompts:
        raise SpeckvError("--rows is how many texts are decoded side by side: give several with --prompts")
    if not options.prompts:
        _check_prompt(options.prompt)
    if options.seed is not None and not options.temperature:
        raise SpeckvError("--seed: temperature 0 is greedy and draws nothing: give a --temperature above 0")
    if options.device == "cpu" and options.device_map:
        raise SpeckvError("--device-map spreads the target over GPUs: leave it out, or --device cpu")


def _check_lengths(
    options: argparse.Namespace, prompts: Sequence[Prompt], encoded: Sequence[list[int]], pair: tuple[Scorer, Scorer]
) -> None:
    """Refuse what does not fit into the models before the loop is prepared for it; of several prompts, name the one."""
    from runtime.loop.generate import check_text

    for number, tokens in enumerate(encoded):
        try:
            check_text(*pair, tokens, options.max_new_tokens)
        except SpeckvError as error:
            place = f"{options.prompts}, prompt {prompts[number].index} (from 0): " if prompts else ""
            raise SpeckvError(f"{place}{error}") from None


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise SpeckvError("the prompt is empty: give some text")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise SpeckvError("the prompt is not text in the terminal's encoding: use a UTF-8 locale") from None


def _policies(
    options: argparse.Namespace, backend: Backend, target: Target, announce: Callable[[], None]
) -> list[Policy]:
    """Return a policy for each row of the loop."""
    if options.policy not in TIMED:
        return [make_policy(options.policy, target.compression) for _ in range(backend.rows)]
    from runtime.profile.start_up import timed_policies

    return timed_policies(options.policy, backend.rows, options.draft, backend.draft, target, announce, backend.graphs)


def _print_statistics(statistics: Statistics, policy: str, precision: str, loop: str) -> None:
    from rich.table import Table

    print()
    table = Table(title=f"policy {policy}, target {precision}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rate = statistics.acceptance_rate
    table.add_row("loop", loop)
    table.add_row("tokens", f"{statistics.tokens} in {statistics.seconds:.2f} s, {statistics.steps} steps")
    table.add_row("tokens per second", f"{statistics.tokens_per_second:.1f}")
    table.add_row("tokens per step", f"{statistics.tokens_per_step:.2f}")
    table.add_row("acceptance rate", "nothing drafted" if rate is None else f"{rate:.1%}")
    histogram = "  ".join(f"{gamma}: {steps}" for gamma, steps in statistics.gamma_histogram.items())
    table.add_row("steps by gamma", histogram)
    open_console().print(table)
