"""Packages from the Hub: what is downloaded, what is refused, and that nothing asks the network unasked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from runtime import GammaSelector, SpeckvError
from runtime.artifacts import MODELS, package_folder
from runtime.contract import CONFIG_FILE, DECISION_FILE, MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.decision.session import open_session
from runtime.hub import is_repo_id, package_from
from runtime.stopper.stopper import Stopper
from tests.hub_server import COMMIT, REPOSITORY, HubServer, serving

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = (0.9, 0.82, 1.7, 0.55)
RIGHT = GammaSelector().select(SIGNALS, "nf4").expected_tokens.tolist()
NO_SOCKETS = (
    "import socket\n"
    "def refused(*_, **__): raise AssertionError('a socket was opened')\n"
    "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused\n"
)
DECIDE = "print(selector.select((0.9, 0.82, 1.7, 0.55), 'nf4').expected_tokens.tolist())\n"


class FakeHub:
    """Stands for `huggingface_hub.snapshot_download`: a local folder is the repository."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.calls: list[tuple[str, str | None, Sequence[str]]] = []

    def __call__(self, repo_id: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        self.calls.append((repo_id, revision, allow_patterns))
        self.cache.mkdir(exist_ok=True)
        for name in allow_patterns:
            if (self.repository / name).exists():
                shutil.copy(self.repository / name, self.cache)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(shutil.copytree(package_folder(), tmp_path / "repository"), tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


@pytest.fixture(scope="module")
def server() -> Any:
    with serving(package_folder()) as running:
        yield running


def in_a_process(script: str, home: Path, **environment: str) -> list[str]:
    """Run a script with Hub settings of its own; return the lines that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "PYTHONPATH": paths, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def lay_out_cache(home: Path, package: Path, names: Sequence[str], shared: bool = False) -> Path:
    """Lay out huggingface_hub's cache as it is after a download of `names`; return the snapshot."""
    repository = home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, (home / "hub" if shared else repository) / "blobs"
    for folder in (repository / "refs", snapshot, blobs):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name in names:
        blob = blobs / hashlib.sha256(name.encode()).hexdigest()
        shutil.copy(package / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def from_hub(repo_id: str = REPOSITORY, **arguments: str) -> str:
    """A script that decides with a selector from the Hub, or prints why it cannot."""
    return (
        "from runtime import GammaSelector, SpeckvError\n"
        f"try:\n    selector = GammaSelector.from_pretrained({repo_id!r}, **{arguments!r})\n    {DECIDE}"
        "except SpeckvError as error:\n    print(error)\n"
    )


# ---- what is asked of the Hub


def test_only_the_graph_and_the_manifest_are_asked_for(hub: FakeHub) -> None:
    selector = GammaSelector.from_pretrained(REPOSITORY, revision="v1")
    assert selector.select(SIGNALS, "nf4").expected_tokens.tolist() == RIGHT
    assert hub.calls == [(REPOSITORY, "v1", [MANIFEST_FILE, DECISION_FILE])]
    assert sorted(path.name for path in hub.cache.iterdir()) == [MANIFEST_FILE, DECISION_FILE]


def test_a_stopper_from_the_hub_is_the_shipped_one(hub: FakeHub) -> None:
    hub.repository = package_folder(STOPPER_NAME)
    stopper, shipped = Stopper.from_pretrained("someone/stopper"), Stopper()
    assert hub.calls == [("someone/stopper", None, [MANIFEST_FILE, STOPPER_FILE])]
    for model in (stopper, shipped):
        model.begin_step([0.1] * 26)
    assert stopper([0.2] * 11) == shipped([0.2] * 11)


def test_damage_on_the_way_is_refused(hub: FakeHub) -> None:
    graph = hub.repository / DECISION_FILE
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(SpeckvError, match=rf"{DECISION_FILE} differs from its sha256 in {MANIFEST_FILE}"):
        GammaSelector.from_pretrained(REPOSITORY)


@pytest.mark.parametrize("name", [MANIFEST_FILE, DECISION_FILE])
def test_a_repository_without_the_file_is_named(hub: FakeHub, name: str) -> None:
    (hub.repository / name).unlink()
    with pytest.raises(SpeckvError, match=rf"{name}: no such file"):
        GammaSelector.from_pretrained(REPOSITORY)


def test_nothing_is_downloaded_for_a_wrong_provider(hub: FakeHub) -> None:
    with pytest.raises(SpeckvError, match="'auto', 'cpu' or 'cuda'"):
        GammaSelector.from_pretrained(REPOSITORY, providers="tpu")
    assert hub.calls == []


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("reason", "named"), [("proxy\n  said no", "proxy said no"), ("", "RuntimeError")])
def test_any_failure_is_one_line_and_leaves_the_users_settings(
    monkeypatch: pytest.MonkeyPatch, reason: str, named: str, before: bool
) -> None:
    seen = []

    def fail(*_: object, **__: object) -> str:
        seen.append(constants.HF_HUB_DISABLE_TELEMETRY)
        raise RuntimeError(reason)

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", before)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SpeckvError, match=rf"'someone/speckv-mlp16' cannot be downloaded \({named}\): try again"):
        GammaSelector.from_pretrained(REPOSITORY)
    assert seen == [True]
    assert constants.HF_HUB_DISABLE_TELEMETRY is before


# ---- folders


def test_a_folder_needs_no_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for folder in (package_folder(), str(package_folder())):
        assert GammaSelector.from_pretrained(folder).select(SIGNALS, "nf4").expected_tokens.tolist() == RIGHT
    with pytest.raises(SpeckvError, match=r'`pip install "speckv\[hub\]"`, or give a folder'):
        GammaSelector.from_pretrained(REPOSITORY)
    with pytest.raises(SpeckvError, match=r"is a folder: a revision \('v1'\)"):
        GammaSelector.from_pretrained(tmp_path, revision="v1")


def test_a_folder_comes_before_a_repository_of_its_name(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(package_folder(), tmp_path / REPOSITORY)
    monkeypatch.chdir(tmp_path)
    assert GammaSelector.from_pretrained(REPOSITORY).folder == Path(REPOSITORY)
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["", " ", "speckv-mlp16", "./a/b", "/a/b", "../b", "a/b/c", "~/b", "a\\b", "a/", "a/b\n", "a\0/b", "ä/b"]
)
def test_what_is_neither_is_refused_without_the_network(hub: FakeHub, name: str) -> None:
    with pytest.raises(SpeckvError, match="no folder") as caught:
        GammaSelector.from_pretrained(name)
    assert str(caught.value).isprintable()
    assert hub.calls == []


def test_a_path_is_never_a_repository() -> None:
    assert is_repo_id(REPOSITORY)
    assert not is_repo_id(Path(REPOSITORY))
    with pytest.raises(SpeckvError, match="no folder"):
        package_from(Path(REPOSITORY), None, [])


def test_no_socket_is_opened_unless_a_repository_is_named(tmp_path: Path) -> None:
    script = (
        f"{NO_SOCKETS}import sys\n"
        "from runtime import GammaSelector\n"
        "from runtime.stopper.stopper import Stopper\n"
        f"Stopper(); Stopper.from_pretrained({str(package_folder(STOPPER_NAME))!r})\n"
        f"selector = GammaSelector.from_pretrained({str(package_folder())!r})\n{DECIDE}"
        f"selector = GammaSelector()\n{DECIDE}"
        "print('huggingface_hub' in sys.modules)\n"
    )
    assert in_a_process(script, tmp_path) == [str(RIGHT), str(RIGHT), "False"]


# ---- the real huggingface_hub


def test_a_download_takes_two_files_and_tells_nothing(server: HubServer, tmp_path: Path) -> None:
    server.requests.clear()
    script = (
        f"{from_hub(revision='v1')}import huggingface_hub.constants as c, os\n"
        "print(c.HF_HUB_DISABLE_TELEMETRY, 'HF_HUB_DISABLE_TELEMETRY' in os.environ)\n"
    )
    endpoint = f"http://127.0.0.1:{server.server_port}"
    assert in_a_process(script, tmp_path, HF_ENDPOINT=endpoint) == [str(RIGHT), "False False"]
    assert server.downloaded == {MANIFEST_FILE, DECISION_FILE}
    assert server.requests
    for path, agent in server.requests:
        assert path.startswith((f"/api/models/{REPOSITORY}/", f"/{REPOSITORY}/resolve/"))
        assert "torch" not in agent
    # What was downloaded is enough offline, by branch, tag or commit.
    offline = NO_SOCKETS + from_hub(revision="v1") + from_hub(revision=COMMIT)
    assert in_a_process(offline, tmp_path, HF_HUB_OFFLINE="1") == [str(RIGHT)] * 2
    (refused,) = in_a_process(from_hub(revision="v2"), tmp_path, HF_HUB_OFFLINE="1")
    assert "is not in the cache, and offline mode is on: unset HF_HUB_OFFLINE" in refused


@pytest.mark.parametrize(
    ("repo_id", "arguments", "named"),
    [
        ("nobody/nothing", {}, "Hub repository 'nobody/nothing' does not exist, nor does such a folder"),
        (REPOSITORY, {"revision": "v9"}, f"Hub repository '{REPOSITORY}' has no revision 'v9'"),
        ("some--one/x", {}, "Hub repository 'some--one/x' cannot be downloaded"),
    ],
)
def test_what_the_hub_lacks_is_named(
    server: HubServer, tmp_path: Path, repo_id: str, arguments: dict[str, str], named: str
) -> None:
    endpoint = f"http://127.0.0.1:{server.server_port}"
    (line,) = in_a_process(from_hub(repo_id, **arguments), tmp_path, HF_ENDPOINT=endpoint)
    assert line.startswith(named)


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (line,) = in_a_process(from_hub(), tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert line == (
        f"Hub repository '{REPOSITORY}' is not in the cache, and the Hub cannot be reached: "
        "check the network, or give a folder"
    )


@pytest.mark.parametrize("shared", [False, True], ids=["blobs of the repository", "blobs of the cache"])
def test_a_cached_snapshot_is_read_offline(tmp_path: Path, shared: bool) -> None:
    snapshot = lay_out_cache(tmp_path, package_folder(), [MANIFEST_FILE, DECISION_FILE], shared)
    by_path = f"from runtime import GammaSelector\nselector = GammaSelector({str(snapshot)!r})\n{DECIDE}"
    assert in_a_process(NO_SOCKETS + from_hub() + by_path, tmp_path, HF_HUB_OFFLINE="1") == [str(RIGHT)] * 2
    (snapshot / DECISION_FILE).resolve().write_bytes(b"damaged")
    (line,) = in_a_process(from_hub(), tmp_path, HF_HUB_OFFLINE="1")
    assert "differs from its sha256" in line


def test_an_incomplete_snapshot_is_named_offline(tmp_path: Path) -> None:
    lay_out_cache(tmp_path, package_folder(), [MANIFEST_FILE])
    (line,) = in_a_process(NO_SOCKETS + from_hub(), tmp_path, HF_HUB_OFFLINE="1")
    assert f"{DECISION_FILE}: no such file" in line


# ---- the folders in models/ as repositories


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
def test_every_package_is_a_repository_as_it_is(folder: Path) -> None:
    """Flat, with the files that the Hub shows, and a card whose header huggingface_hub reads without a complaint."""
    names = {path.name for path in folder.iterdir()}
    assert names >= {"README.md", "LICENSE", CONFIG_FILE, MANIFEST_FILE}
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license in ("mit", "apache-2.0")
    assert "speculative-decoding" in card.data.tags
    assert card.data.library_name
    assert json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))


def test_the_readme_fetches_the_one_file_in_one_line() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    config = json.loads((package_folder() / CONFIG_FILE).read_text(encoding="utf-8"))
    (address,) = re.findall(r"^ +curl -LO (\S+)$", readme, re.MULTILINE)
    assert ROOT / address.removeprefix(f"{config['repository']}/raw/main/") == package_folder() / DECISION_FILE
    (file,) = re.findall(r"^ +hf download OWNER/speckv-mlp16 (\S+)( .*)?$", readme, re.MULTILINE)
    assert file[0] == DECISION_FILE
    (kilobytes,) = re.findall(r"the (\d+) KB graph", readme)
    assert round((package_folder() / DECISION_FILE).stat().st_size / 1000) == int(kilobytes)


def test_that_line_fetches_that_file_alone(server: HubServer, tmp_path: Path) -> None:
    """The command as the README has it, run by a person who has huggingface_hub only."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ +(hf download .*)$", readme, re.MULTILINE)
    _, *words = line.replace("OWNER/speckv-mlp16", REPOSITORY).split()
    tool = Path(sys.executable).with_name("hf")
    server.requests.clear()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run([tool, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert server.downloaded == {DECISION_FILE}
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == [DECISION_FILE]
    assert (folder / DECISION_FILE).read_bytes() == (package_folder() / DECISION_FILE).read_bytes()


def test_the_one_file_is_enough(tmp_path: Path) -> None:
    import numpy as np

    shutil.copy(package_folder() / DECISION_FILE, tmp_path)
    session = open_session(tmp_path / DECISION_FILE, "cpu")
    expected = session.run(
        ["expected_tokens"],
        {
            "signals": np.asarray([SIGNALS], np.float32),
            "comp_enc": np.asarray([2]),
            "candidates": np.asarray([2, 4, 6, 8]),
            "step_cost": np.ones(4, np.float32),
        },
    )
    assert expected[0][0].tolist() == RIGHT
