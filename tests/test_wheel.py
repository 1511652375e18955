"""The wheel holds the models and finds them from any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = folder.glob("speckv-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_a_decision_from_the_wheel_in_another_folder(installed: Path, tmp_path: Path) -> None:
    script = (
        "import runtime, runtime.artifacts\n"
        "print(runtime.__file__, runtime.artifacts.MODELS)\n"
        "print(runtime.GammaSelector().select((0.9, 0.8, 1.7, 0.5), 'fp16').gamma)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    places, gamma = done.stdout.splitlines()
    assert all(place.startswith(str(installed)) for place in places.split())
    assert int(gamma) in (2, 4, 6, 8)


def test_the_wheel_holds_everything_and_no_tests(installed: Path) -> None:
    for name in ("speckv-mlp16/speckv_mlp16_gamma.onnx", "speckv-mlp16/LICENSE", "smollm2-drafter/drafter.safetensors"):
        assert (installed / "models" / name).is_file()
    assert (installed / "runtime" / "data" / "prompts.jsonl").is_file()
    assert (installed / "runtime" / "py.typed").is_file()
    assert not (installed / "tests").exists()
    (licenses,) = installed.glob("speckv-*.dist-info/licenses")
    packages = sorted(folder.name for folder in (ROOT / "models").iterdir())
    assert sorted(path.parent.name for path in licenses.rglob("models/*/LICENSE")) == packages
    notice = (licenses / "NOTICE").read_text(encoding="utf-8")
    assert all(f"models/{name}\n" in notice for name in packages)
    assert not (installed / "integrations" / "js").exists()
