"""`python -m integrations.vllm COMMAND`: settings for vLLM from a profile; the draft as a model folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from integrations.vllm.draft_folder import export_draft
from integrations.vllm.plan import SCHEDULER, Entry, Plan, make_plan
from runtime.commands.arguments import Subparsers, add_command
from runtime.errors import SpeckvError, refused
from runtime.terminal import discard_output, open_console

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (2 for bad input, 130 for an interrupt, 141 for a reader that has left)."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.vllm", description="Run the controller inside vLLM.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_plan(subparsers)
    _add_export_draft(subparsers)
    options = parser.parse_args(arguments)
    try:
        try:
            code: int = options.run(options)
            return code
        finally:
            sys.stdout.flush()  # here, where a failure has an exit code of its own
    except BrokenPipeError:
        discard_output()
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "transformers", "accelerate", "safetensors"):
            raise
        print(f"error: this command needs '{error.name}': pip install 'speckv[loop]'", file=sys.stderr)
    except SpeckvError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {refused(error)}", file=sys.stderr)
    return 2


def _add_plan(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "plan",
        _plan,
        "Turn a profile into vLLM's settings: speculative config, speculation length by batch size, scheduler.",
        "python -m integrations.vllm plan --profile profiles/mine --draft drafts/mine",
    )
    parser.add_argument("--profile", type=Path, required=True, metavar="DIR", help="what `runtime profile` wrote")
    parser.add_argument("--precision", metavar="P", help="of the target (default: the profile's, if it has one only)")
    parser.add_argument("--draft", metavar="ID", help="what vLLM is to load as the draft (default: the profile's)")


def _add_export_draft(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "export-draft",
        _export_draft,
        "Write a draft that lives on its target's embedding and head as a model folder of its own.",
        "python -m integrations.vllm export-draft --output drafts/smollm2",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new or empty")
    parser.add_argument("--target", metavar="ID", help="Hub id or folder (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--draft", metavar="ID", help="drafter package, or early-exit[:LAYERS] of the target")


def _export_draft(options: argparse.Namespace) -> int:
    export_draft(options.output, options.target, options.draft)
    files = sorted(path.name for path in options.output.iterdir())
    print(json.dumps({"output": str(options.output), "files": files}) if options.json else "\n".join(files))
    return 0


def _plan(options: argparse.Namespace) -> int:
    plan = _with_progress(options)
    if options.json:
        print(json.dumps(_as_json(plan)))
    else:
        print("\n".join([*reasons(plan), "", command(plan)]))
    return 0


def _with_progress(options: argparse.Namespace) -> Plan:
    from rich.progress import BarColumn, Progress, TextColumn

    console = open_console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("replaying", total=None)
        return make_plan(
            options.profile,
            options.precision,
            options.draft,
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def reasons(plan: Plan) -> list[str]:
    """Return a sentence for each choice."""
    lines = [
        f"Replayed exactly: {plan.tokens} tokens of {plan.texts} texts, {plan.precision} target. A drafted token "
        f"stands with probability {plan.acceptance:.2f}. Ratios are to vLLM without a draft model."
    ]
    lines += [_reason(entry, plan) for entry in plan.table]
    if not plan.longest:
        return [*lines, "A draft model makes no batch size faster: vLLM is better off without one."]
    if plan.last_faster < plan.table[-1].last:
        lines.append(f"Beyond {plan.last_faster} requests at once vLLM is faster without a draft model.")
    lines.append(
        f"1 request under speckv's scheduler, which takes the table's place and may draft {plan.longest}: "
        f"{plan.controlled_tokens_per_step:.2f} tokens a step, {plan.controlled_ratio:.2f} times."
    )
    lines.append(
        f"With data parallelism vLLM drops the table and always drafts num_speculative_tokens, here {plan.longest}: "
        "give it the length for the requests that one rank sees."
    )
    return lines


def _reason(entry: Entry, plan: Plan) -> str:
    batches = f"{entry.first} to {entry.last} requests" if entry.first < entry.last else f"{entry.first} request"
    low, high = f"{entry.least:.2f}", f"{entry.most:.2f}"
    ratio = f"{low} times" if low == high else f"{low} to {high} times"
    if entry.length:
        return f"{batches}: draft {entry.length}; {entry.tokens_per_step:.2f} tokens a step each, {ratio}."
    reach = plan.times.widest // 2
    why = ["more take longer than they save"] if entry.first <= reach else []
    why += [f"beyond {reach} requests no call of the target was measured"] if entry.last > reach else []
    return f"{batches}: draft none, {' and '.join(why)}; {ratio}, for vLLM runs the draft model all the same."


def command(plan: Plan) -> str:
    """Return the command line that serves the pair as planned."""
    config = plan.speculative_config()
    words = ["vllm", "serve", plan.target]
    if plan.precision in DTYPES:
        words += ["--dtype", DTYPES[plan.precision]]
    if config is None:
        return shlex.join(words)
    words += ["--speculative-config", json.dumps(config)]
    words += ["--scheduler-cls", SCHEDULER, "--additional-config", json.dumps(plan.additional_config())]
    return shlex.join(words)


def _as_json(plan: Plan) -> dict[str, Any]:
    config = plan.speculative_config()
    return {
        "speculative_config": config,
        "scheduler_cls": SCHEDULER if config else None,
        "additional_config": plan.additional_config() if config else None,
        "table": [dataclasses.asdict(entry) for entry in plan.table],
        "acceptance": plan.acceptance,
        "last_faster": plan.last_faster,
        "scheduler": {"tokens_per_step": plan.controlled_tokens_per_step, "ratio": plan.controlled_ratio},
        "reasons": reasons(plan),
        "command": command(plan),
    }


if __name__ == "__main__":
    sys.exit(main())
