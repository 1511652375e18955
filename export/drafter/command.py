"""`python -m export drafter`: distils drafters for a target, measures them, writes their packages."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from export.drafter.agreement import Agreement, greedy_documents, measure_agreement
from export.drafter.answers import generate_answers
from export.drafter.checkpoint import Position, Stop
from export.drafter.corpus import Collator, Documents, machine_text
from export.drafter.package import FILES, PACKAGE_NAME, SIZE_LIMIT, Origin, write_package
from export.drafter.shared_file import make_once
from export.drafter.states import target_states
from export.drafter.students import Student, make_student, source_layers
from export.drafter.train import LEARNING_RATE, Trainer
from export.package_folder import check_destination
from runtime.commands.arguments import LARGEST_SEED, whole_number
from runtime.errors import SpeckvError, printable
from runtime.files import check_writable
from runtime.pair.drafter import dequantise, own_parts, quantise
from runtime.prompts import read_prompts
from runtime.terminal import open_console

TEXT_SHARE = 0.15
"""Share of source code and documentation in the training tokens."""

EXAMPLE = """example:
  python -m export drafter --target HuggingFaceTB/SmolLM2-135M-Instruct --output drafters --work work \\
      --layers 2 4 6 --minutes 6 --generate-minutes 2"""


def main(argv: list[str]) -> int:
    """Run the command; return the exit code (0, or 130 when stopped).

    Raises:
        SpeckvError: on bad input, before anything is written.
    """
    options = parser().parse_args(argv)
    console = open_console(stderr=True)
    with Stop().listening() as stop:
        try:
            results = run(options, console, stop)
        except KeyboardInterrupt:
            console.print("stopped, what is done is kept: run the same command again to go on")
            return 130
    print(json.dumps(results, indent=2)) if options.json else _print_table(results)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition."""
    result = argparse.ArgumentParser(
        prog="python -m export drafter",
        description="Distil small drafters that share the target's embedding and head. Processes with the same "
        "--work, one per GPU, share the generating and train different --layers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--target", required=True, help="model folder or Hub id")
    result.add_argument("--target-name", help="name for the card (default: the Hub id, or the folder's name)")
    result.add_argument("--output", type=Path, required=True, help="receives one folder per candidate, N-layers/")
    result.add_argument(
        "--work", type=Path, required=True, help="generated text and checkpoints, to resume from and to share"
    )
    result.add_argument(
        "--layers", type=whole_number(1), nargs="+", default=[2, 4, 6], help="candidates, trained side by side"
    )
    result.add_argument("--minutes", type=float, required=True, help="time budget of the training")
    result.add_argument(
        "--generate-minutes", type=float, default=2.0, help="time budget of the target's answers, summed over processes"
    )
    result.add_argument(
        "--prompts", type=whole_number(1), default=32_000, help="number of composed prompts (default 32000)"
    )
    result.add_argument("--batch-tokens", type=whole_number(1), default=32_768, help="tokens per step (default 32768)")
    result.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=42, metavar="N")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    result.add_argument("--json", action="store_true", help="print the results as JSON on stdout")
    return result


def run(options: argparse.Namespace, console: Console, stop: Stop) -> list[dict[str, Any]]:
    """Generate, train, measure, package; return one result per candidate."""
    _check(options)
    target, tokenizer = _load_target(options.target, _device(options.device))
    for layers in options.layers:
        source_layers(layers, target.config.num_hidden_layers)  # refuses too many before the hours of training
    options.work.mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        documents = _training_text(options, target, tokenizer, progress, stop)
        collate = Collator(documents, target.device)
        students = [make_student(target, layers, LEARNING_RATE) for layers in options.layers]
        trainer = Trainer(
            target=target,
            students=students,
            collate=collate,
            states=target_states(target, collate, progress),
            batch_tokens=options.batch_tokens,
            budget=options.minutes * 60,
            settings=_settings(options, documents),
            checkpoint=options.work / f"checkpoint-{'-'.join(map(str, options.layers))}.pt",
            stop=stop,
        )
        position = trainer.run(progress)
        task = progress.add_task("measuring", total=len(students))
        held_out = HeldOut(target, tokenizer)
        results = []
        for student in students:
            results.append(_finish(student, held_out, _origin(options, target, position, documents), options.output))
            progress.advance(task)
    return results


class HeldOut:
    """The default prompts with the target's greedy answers."""

    def __init__(self, target: PreTrainedModel, tokenizer: Any) -> None:
        self.target = target
        self.prompts = read_prompts()
        self.documents = greedy_documents(target, tokenizer, self.prompts)

    def measure(self, drafter: PreTrainedModel) -> Agreement:
        """Return the drafter's agreement."""
        return measure_agreement(drafter, self.documents, self.prompts)


def _finish(student: Student, held_out: HeldOut, origin: Origin, output: Path) -> dict[str, Any]:
    """Round the weights as they will be stored, measure those, write the package."""
    stored = quantise(student.own.state_dict())
    drafter = student.model.to(held_out.target.dtype)
    own_parts(drafter).load_state_dict(dequantise(stored))
    agreement = held_out.measure(drafter.eval())
    layers = len(student.source_layers)
    folder = _folder(output, layers)
    size = write_package(folder, stored, student.source_layers, held_out.target, agreement, origin)
    return {
        "layers": layers,
        "source_layers": student.source_layers,
        "folder": str(folder),
        "bytes": size,
        "within_limit": size <= SIZE_LIMIT,
        "agreement": agreement.overall,
        "tasks": agreement.tasks,
        "positions": agreement.tokens,
        "steps": origin.steps,
        "training_tokens": origin.training_tokens,
    }


def _training_text(
    options: argparse.Namespace, target: PreTrainedModel, tokenizer: Any, progress: Progress, stop: Stop
) -> Documents:
    answers = generate_answers(
        target,
        tokenizer,
        options.work,
        options.prompts,
        options.generate_minutes * 60,
        options.seed,
        progress,
        stop,
    )

    def write_text(path: Path) -> None:
        progress.console.print("reading source code and documentation of this machine")
        wanted = int(answers.predicted.sum() * TEXT_SHARE / (1 - TEXT_SHARE))
        machine_text(tokenizer, wanted, options.seed).save(path)

    text = options.work / "text.npz"
    make_once(text, write_text, wait=True)
    return Documents.join([answers, Documents.load(text)])


def _check(options: argparse.Namespace) -> None:
    for name in ("minutes", "generate_minutes"):
        if not getattr(options, name) > 0:
            raise SpeckvError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number above 0")
    if len(set(options.layers)) < len(options.layers):
        raise SpeckvError(f"--layers {' '.join(map(str, options.layers))}: a number is given twice")
    check_writable(options.work, "give another --work")
    check_writable(options.output, "give another --output")
    for layers in options.layers:
        check_destination(_folder(options.output, layers), PACKAGE_NAME, FILES)


def _folder(output: Path, layers: int) -> Path:
    return output / f"{layers}-layers"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", name):
        raise SpeckvError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    number, found = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if name != "cpu" and number >= found:
        raise SpeckvError(f"--device {name}: PyTorch sees {found} CUDA devices here, numbered from 0: use another")
    return torch.device(name)


def _load_target(name: str, device: torch.device) -> tuple[PreTrainedModel, Any]:
    """Load the target as it computes fastest: bfloat16 on a GPU, float32 elsewhere."""
    torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        target = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    except Exception as error:  # what a folder holds can make the libraries raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpeckvError(f"--target {name} cannot be loaded ({reason}): give a model folder or a Hub id") from None
    return target.to(device).eval().requires_grad_(False), tokenizer


def _settings(options: argparse.Namespace, documents: Documents) -> dict[str, Any]:
    return {
        "target": _target_name(options),
        "layers": options.layers,
        "minutes": options.minutes,
        "batch-tokens": options.batch_tokens,
        "seed": options.seed,
        "corpus tokens": len(documents.tokens),
    }


def _target_name(options: argparse.Namespace) -> str:
    folder = Path(options.target)
    return options.target_name or (folder.resolve().name if folder.is_dir() else options.target)


def _origin(options: argparse.Namespace, target: PreTrainedModel, position: Position, documents: Documents) -> Origin:
    name = _target_name(options)
    layers = " ".join(map(str, options.layers))
    command = (
        f"python -m export drafter --target {name} --output drafters --work work --layers {layers} "
        f"--minutes {options.minutes:g} --generate-minutes {options.generate_minutes:g} --prompts {options.prompts} "
        f"--batch-tokens {options.batch_tokens} --seed {options.seed}"
    )
    cuda = target.device.type == "cuda"
    return Origin(
        target=name,
        command=command,
        seed=options.seed,
        device=torch.cuda.get_device_name(target.device) if cuda else "CPU",
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        steps=position.steps,
        training_tokens=position.tokens,
        corpus_tokens=int(documents.predicted.sum()),
        minutes=position.elapsed / 60,
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _print_table(results: list[dict[str, Any]]) -> None:
    tasks = list(results[0]["tasks"])
    table = Table("layers", "agreement", *tasks, "MB", "folder", title="Top-1 agreement on held-out prompts")
    for result in results:
        size = f"{result['bytes'] / 1e6:.1f}" + ("" if result["within_limit"] else f" (over {SIZE_LIMIT / 1e6:.0f})")
        shares = [f"{result['tasks'][task]:.3f}" for task in tasks]
        table.add_row(str(result["layers"]), f"{result['agreement']:.3f}", *shares, size, printable(result["folder"]))
    open_console().print(table)
