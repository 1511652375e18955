"""`python -m runtime generate`: a text from a draft/target pair, streamed, and what it cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, add_pair, whole_number
from runtime.errors import SpeckvError
from runtime.policies.registry import NAMES, TIMED, UNTIMED_NAMES, make_policy

if TYPE_CHECKING:
    from runtime.loop.backend import Backend
    from runtime.loop.generate import Step
    from runtime.loop.sampling import Sampling
    from runtime.loop.statistics import Statistics
    from runtime.pair.target import Target
    from runtime.policies.policy import Policy


def add_parser(subparsers: Subparsers) -> None:
    """Add the `generate` command."""
    parser = add_command(
        subparsers,
        "generate",
        run,
        "Generate a text losslessly with a draft/target pair.",
        'python -m runtime generate "Write a haiku about compilers." --max-new-tokens 60',
    )
    parser.add_argument("prompt", metavar="PROMPT")
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
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N")


def run(options: argparse.Namespace) -> int:
    """Generate, stream and summarise."""
    _check(options)
    from runtime.loop.backend import choose_backend
    from runtime.loop.sampling import Sampling
    from runtime.pair.draft import check_draft, load_draft
    from runtime.pair.target import load_target

    check_draft(options.draft, options.target)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    placement = "tensor parallel" if options.tensor_parallel else options.device_map or "one device"
    target = load_target(options.target, options.target_precision, options.device, placement)
    draft = load_draft(options.draft, target)
    prompt = target.encode(options.prompt)
    backend = choose_backend(draft, target.model, len(prompt) + options.max_new_tokens, sampling)
    _generate(options, backend, target, prompt, sampling)
    return 0


def _generate(
    options: argparse.Namespace, backend: Backend, target: Target, prompt: Sequence[int], sampling: Sampling
) -> None:
    """Decode and print; of a text that an error or the user ends, what there is."""
    import torch
    from transformers import TextStreamer

    from runtime.loop.statistics import summarise

    policy = _policy(options, backend, target)
    # Every process of a tensor parallel target runs the same loop; the first one speaks.
    speaks = not options.tensor_parallel or os.environ.get("RANK", "0") == "0"
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
            seed=options.seed,
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
                _print_json(statistics, steps, target, backend.why)


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
    if not options.prompt.strip():
        raise SpeckvError("the prompt is empty: give some text")
    try:
        options.prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise SpeckvError("the prompt is not text in the terminal's encoding: use a UTF-8 locale") from None
    if options.seed >= 2**63:
        raise SpeckvError(f"--seed {options.seed}: it must be below 2^63")


def _policy(options: argparse.Namespace, backend: Backend, target: Target) -> Policy:
    if options.policy not in TIMED:
        return make_policy(options.policy, target.compression)
    from runtime.profile.start_up import timed_policy

    def announce() -> None:
        print("measuring the pair's step times, once for this machine", file=sys.stderr)

    return timed_policy(options.policy, options.draft, backend.draft, target, announce, backend.graphs)


def _print_json(statistics: Statistics, steps: Sequence[Step], target: Target, loop: str) -> None:
    text = target.tokenizer.decode([token for step in steps for token in step.tokens], skip_special_tokens=True)
    print(json.dumps({"text": text, "precision": target.precision, "loop": loop, **dataclasses.asdict(statistics)}))


def _print_statistics(statistics: Statistics, policy: str, precision: str, loop: str) -> None:
    from rich.console import Console
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
    Console().print(table)
