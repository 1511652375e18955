"""A target split over two processes of the CPU, as `torchrun` starts them: the tokens of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.drafter.agreement import Agreement
from export.drafter.package import Origin, write_package
from export.drafter.students import make_student
from runtime.__main__ import main
from runtime.pair.drafter import quantise
from tests.loop.tiny import tiny_model

PROGRAM = """
import os, sys
import torch
from runtime.__main__ import main
code = main(sys.argv[1:])
assert not torch.distributed.is_initialized(), "the processes did not part"
os._exit(code)
"""
"""What each process runs. It leaves without the interpreter's teardown, in which gloo's threads abort a process now and
then when there are fewer cores than threads ("terminate called without an active exception"), whatever it ran."""


@pytest.fixture(scope="module")
def target(target_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an embedding that is its head, too, as SmolLM2's; beside it `drafter`, a package for it."""
    folder = tmp_path_factory.mktemp("split") / "target"
    shutil.copytree(target_folder, folder)
    model = tiny_model(seed=1, vocabulary=60, hidden=64)  # older releases of transformers only split what is even
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    student = make_student(model, 2, 1e-3)
    origin = Origin("a target", "a command", 42, "CPU", "torch", 1, 1, 1, 0.1)
    package = folder.parent / "drafter"
    write_package(package, quantise(student.own.state_dict()), [0, 2], model, Agreement(0.5, {}, 1), origin)
    return folder


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.parametrize("draft", ["drafter", "early-exit:2"])
def test_two_processes_generate_the_text_of_one(target: Path, draft: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "w5 w9 w33", "--target", str(target), "--policy", "fixed:3", "--max-new-tokens", "24"]
    command += ["--draft", str(target.parent / draft) if draft == "drafter" else draft, "--device", "cpu", "--json"]
    assert main(command) == 0
    alone = json.loads(capsys.readouterr().out)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*torchrun, sys.executable, "-c", PROGRAM, *command, "--tensor-parallel"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # one of the two speaks
    split = json.loads(line)
    assert alone["tokens"] == 24
    assert alone["steps"] < 24  # some of what was drafted is accepted
    for what in ("text", "steps", "acceptance_rate", "gamma_histogram"):
        assert split[what] == alone[what]
