# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile: linted, and its stages as they have to be.

``scripts/prove_dockerfile.py`` carries it out; that takes root and minutes, so it is run by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import bake_models
import pytest
from container_lib.context import copy_in, files, is_ignored
from container_lib.dockerfile import Image, Stage, needed, read_stages, split_flags

import appliance
from appliance.configuration import load_settings
from appliance.engine.sources import locate_model
from appliance.settings import ENV_PREFIX, Settings
from tests.fake_hub import FakeRepo, run_hub, use_endpoint
from tests.serving import running

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stages(**given: str) -> list[Stage]:
    return list(needed(read_stages(TEXT, given)))


def image(**given: str) -> Image:
    """The last stage's configuration, as the last one and those below it make it."""
    made = Image()
    by_name = {stage.name: stage for stage in stages(**given)}
    chain = [stages(**given)[-1]]
    while chain[0].base in by_name:
        chain.insert(0, by_name[chain[0].base])
    for stage in chain:
        for step in stage.steps:
            if step.name not in ("RUN", "COPY"):
                made.take(step, given)
    return made


def test_it_is_linted() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this system")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_what_a_device_needs_is_built(device: str) -> None:
    names = [stage.name for stage in stages(DEVICE=device)]
    assert names == ["system", "builder", f"torch-{device}", "installed", "appliance"]


def test_torch_comes_from_an_index_of_its_own() -> None:
    def index(device: str) -> str:
        made = Image()
        for step in stages(DEVICE=device)[2].steps:
            if step.name == "ARG":
                made.take(step, {})
        return made.arguments["TORCH_INDEX_URL"]

    assert index("cpu") == "https://download.pytorch.org/whl/cpu"
    assert index("cuda") == "https://pypi.org/simple"


def test_what_is_copied_is_in_the_context(tmp_path: Path) -> None:
    copied = [
        source
        for stage in stages()
        for step in stage.steps
        if step.name == "COPY" and "from" not in split_flags(step.value)[0]
        for source in split_flags(step.value)[1].split()[:-1]
    ]
    assert "appliance" in copied
    for source in copied:
        assert copy_in(ROOT, source, tmp_path / source, into=False)
    packages = {path.relative_to(tmp_path) for path in (tmp_path / "appliance").rglob("*.*")}
    assert {".py", ".html", ".js"} <= {path.suffix for path in packages}


def test_nothing_else_is_in_the_context() -> None:
    found = {path.parts[0] for path in files(ROOT)}
    assert found == {
        "LICENSE",
        "README.md",
        "appliance",
        "compat",
        "constraints.txt",
        "ops",
        "pyproject.toml",
        "scripts",
    }
    assert not any({"__pycache__", "node_modules"} & set(path.parts) for path in files(ROOT))


def test_the_last_rule_that_fits_decides() -> None:
    rules = ["*", "!a", "**/b", "!c/d.txt"]
    ignored = {
        path: is_ignored(PurePosixPath(path), rules)
        for path in ("a/x/y", "a/x/b/z", "e", "c/e.txt", "c/d.txt")
    }
    assert ignored == {
        "a/x/y": False,
        "a/x/b/z": True,
        "e": True,
        "c/e.txt": True,
        "c/d.txt": False,
    }


def test_the_server_is_process_1_of_no_privileged_user() -> None:
    made = image()
    assert made.entrypoint == ["appliance", "serve"]
    user, _, group = made.user.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_variables_are_settings() -> None:
    set_here = {
        name.removeprefix(ENV_PREFIX).lower()
        for name in image().environment
        if name.startswith(ENV_PREFIX)
    }
    assert set_here == {"host", "config", "data_dir", "swap_dir"}
    assert set_here - {"config"} <= Settings.model_fields.keys()


def test_what_is_written_is_in_volumes() -> None:
    made = image()
    for name in ("HF_HOME", "APPLIANCE_DATA_DIR", "APPLIANCE_SWAP_DIR"):
        folder = made.environment[name]
        assert any(Path(folder).is_relative_to(volume) for volume in made.volumes)


def test_arguments_from_the_head_reach_the_stages_that_ask_for_them() -> None:
    [installed] = [stage for stage in stages(DEVICE="cuda") if stage.name == "installed"]
    made = Image()
    made.take(installed.steps[0], {"DEVICE": "cuda"})
    assert made.arguments == {"DEVICE": "cuda"}
    [installed] = [stage for stage in stages() if stage.name == "installed"]
    made.take(installed.steps[0], {})
    assert made.arguments == {"DEVICE": "cpu"}


@pytest.mark.parametrize(
    ("given", "port"),
    [
        ({}, 8080),
        ({"APPLIANCE_PORT": "9000"}, 9000),
        ({"MODEL_ID": "team/small"}, 8080),
        ({"MODEL_ID": "team/small", "PORT": "80"}, 80),
    ],
)
def test_the_port_is_the_same_however_it_is_started(
    given: dict[str, str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {n: v for n, v in image().environment.items() if n == "PORT" or n.startswith(ENV_PREFIX)}
    for name, value in {**own, "APPLIANCE_CONFIG": "", **given}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.port) == ("0.0.0.0", port)


def test_labels_tell_what_it_is() -> None:
    labels = image(REVISION="abc", SOURCE="https://example.com/r").labels
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == appliance.__version__
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert labels[f"{prefix}revision"] == "abc"
    assert labels[f"{prefix}source"] == "https://example.com/r"


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def healthcheck(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "healthcheck.py"],
        env=variables,
        capture_output=True,
        text=True,
    )


def run_bake(folder: Path, models: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["bake_models.py", str(folder), models])
    return bake_models.main()


def test_models_are_baked_in_and_served_under_their_names(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = 'embedded:all-MiniLM-L6-v2,team/small,{"model": "team/other", "aliases": ["other"]}'
    repo = FakeRepo({"main": small_model})
    with run_hub(team__small=repo, team__other=repo) as hub:
        use_endpoint(monkeypatch, hub.url)
        assert run_bake(tmp_path / "models", models, monkeypatch) == 0
    baked = tmp_path / "models" / "team" / "small"
    assert (baked / "model.safetensors").read_bytes() == b"weights"
    assert not any(path.is_symlink() for path in baked.rglob("*"))
    settings = load_settings(config=tmp_path / "models" / "appliance.json")
    assert [(model.model, model.names) for model in settings.models] == [
        ("embedded:all-MiniLM-L6-v2", ("all-MiniLM-L6-v2",)),
        (str(baked), ("team/small",)),
        (str(baked.parent / "other"), ("team/other", "other")),
    ]
    # By its hub name it is found as well, from the folder that the image's server works in.
    monkeypatch.chdir(tmp_path / "models")
    assert locate_model("team/small", revision=None, token=None, cache=None).resolve() == baked


def test_no_model_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_bake(tmp_path / "models", "", monkeypatch) == 0
    [file] = (tmp_path / "models").iterdir()
    assert load_settings(config=file).models == Settings().models


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ("team/other", "team/other"),
        ('{"nam": 1}', "nam"),
        (f"clearml://{'0' * 32}", "no keys for ClearML"),
    ],
)
def test_a_model_that_cannot_be_had_stops_the_build(
    tmp_path: Path,
    small_model: Path,
    models: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with run_hub(team__small=FakeRepo({"main": small_model})) as hub:
        use_endpoint(monkeypatch, hub.url)
        assert run_bake(tmp_path, models, monkeypatch) == 1
    message = capsys.readouterr().err
    assert message.startswith("bake_models: ")
    assert told in message


def test_the_health_check_tells_what_the_server_says() -> None:
    class Answering(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/health" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    port = str(server.server_port)
    with running(server):
        assert healthcheck(APPLIANCE_PORT=port).returncode == 0
        assert healthcheck(PORT=port).returncode == 0
        Answering.status = 503
        done = healthcheck(APPLIANCE_PORT=port)
        assert (done.returncode, done.stderr) == (1, "/health answers 503\n")
    done = healthcheck(APPLIANCE_PORT=port)
    assert done.returncode == 1
    assert done.stderr.startswith("no answer: ")
