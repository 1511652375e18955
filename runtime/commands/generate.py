"""`python -m runtime generate`: a text from a draft/target pair, streamed, and what it cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING

from runtime.commands.arguments import Subparsers, add_command, whole_number
from runtime.errors import SpeckvError
from runtime.policies.registry import NAMES, make_policy

if TYPE_CHECKING:
    from runtime.loop.generate import Step
    from runtime.loop.statistics import Statistics


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
    parser.add_argument("--target", metavar="ID", help="Hub id or folder (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--draft", metavar="ID", help="Hub id, folder, or early-exit[:LAYERS] of the target")
    parser.add_argument("--target-precision", metavar="P", help="fp32, bf16, fp16, int8 or nf4")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA where there is one")
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument("--device-map", choices=("auto",), help="spread the target's layers over all GPUs")
    spread.add_argument("--tensor-parallel", action="store_true", help="split every layer; run under torchrun")
    parser.add_argument("--policy", default="speckv", metavar="POLICY", help=f"{NAMES} (default: speckv)")
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (the default) is greedy")
    parser.add_argument(
        "--top-k", type=whole_number(0), default=0, metavar="K", help="0 (the default) keeps all tokens"
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N")


def run(options: argparse.Namespace) -> int:
    """Generate, stream and summarise."""
    make_policy(options.policy, "fp16")  # a wrong name is refused before any model is loaded
    if not options.prompt.strip():
        raise SpeckvError("the prompt is empty: give some text")
    import torch
    from transformers import TextStreamer

    from runtime.loop.generate import speculate
    from runtime.loop.sampling import Sampling
    from runtime.loop.scorer import CachedModel
    from runtime.loop.statistics import summarise
    from runtime.pair.draft import load_draft
    from runtime.pair.target import load_target

    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    placement = "tensor parallel" if options.tensor_parallel else options.device_map or "one device"
    target = load_target(options.target, options.target_precision, options.device, placement)
    draft = load_draft(options.draft, target)
    vocabulary = target.model.config.get_text_config().vocab_size
    prompt = target.encode(options.prompt)
    start = time.perf_counter()
    stream = speculate(
        CachedModel(draft, vocabulary),
        CachedModel(target.model),
        prompt,
        make_policy(options.policy, target.compression),
        max_new_tokens=options.max_new_tokens,
        sampling=sampling,
        eos=target.eos,
        seed=options.seed,
    )
    steps: list[Step] = []
    # Under torchrun every process runs the same loop on its share of the target; the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    printer = None if options.json or not speaks else TextStreamer(target.tokenizer, skip_special_tokens=True)
    for step in stream:
        steps.append(step)
        if printer:
            printer.put(torch.tensor(step.tokens))
    if printer:
        printer.end()
    if not speaks:
        return 0
    statistics = summarise(steps, time.perf_counter() - start)
    if options.json:
        tokens = [token for step in steps for token in step.tokens]
        text = target.tokenizer.decode(tokens, skip_special_tokens=True)
        print(json.dumps({"text": text, "precision": target.precision, **dataclasses.asdict(statistics)}))
    else:
        _print_statistics(statistics, options.policy, target.precision)
    return 0


def _print_statistics(statistics: Statistics, policy: str, precision: str) -> None:
    from rich.console import Console
    from rich.table import Table

    print()
    table = Table(title=f"policy {policy}, target {precision}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rate = statistics.acceptance_rate
    table.add_row("tokens", f"{statistics.tokens} in {statistics.seconds:.2f} s, {statistics.steps} steps")
    table.add_row("tokens per second", f"{statistics.tokens_per_second:.1f}")
    table.add_row("tokens per step", f"{statistics.tokens_per_step:.2f}")
    table.add_row("acceptance rate", "nothing drafted" if rate is None else f"{rate:.1%}")
    histogram = "  ".join(f"{gamma}: {steps}" for gamma, steps in statistics.gamma_histogram.items())
    table.add_row("steps by gamma", histogram)
    Console().print(table)
