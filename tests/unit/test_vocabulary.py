# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tiktoken.registry
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.vocabulary import CL100K_FILE, TokenVocabulary
from appliance.errors import InvalidRequest

CARRIERS = {
    "llama_index": "core/_static/tiktoken_cache",
    "litellm": "litellm_core_utils/tokenizers",
}


def carried_by(package: str) -> Path:
    """The folder of a package that has the vocabulary's file in it."""
    spec = importlib.util.find_spec(package)
    for location in (spec and spec.submodule_search_locations) or ():
        if (Path(location, CARRIERS[package]) / CL100K_FILE).is_file():
            return Path(location, CARRIERS[package])
    pytest.skip(f"{package} is not installed")


@pytest.fixture(autouse=True)
def _nothing_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.setenv(variable, "")  # so that it is put back, whatever the test sets
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})


@pytest.fixture(scope="module")
def vocabulary() -> TokenVocabulary:
    return TokenVocabulary(carried_by("litellm"))


@pytest.fixture(scope="module")
def encoding() -> Iterator[tiktoken.Encoding]:
    """The vocabulary as its own library reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(carried_by("litellm")))
        yield tiktoken.get_encoding("cl100k_base")


@pytest.fixture
def hanging_download(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A download that does not end before the event is set."""
    released = threading.Event()
    real = tiktoken.get_encoding

    def hang(name: str) -> tiktoken.Encoding:
        released.wait(60)
        return real(name)

    monkeypatch.setattr(tiktoken, "get_encoding", hang)
    yield released
    released.set()


@pytest.mark.parametrize("package", CARRIERS)
def test_the_file_is_read_from_the_folder_that_is_set(package: str) -> None:
    assert TokenVocabulary(carried_by(package)).decode([15339, 1917], "input") == "hello world"


def test_the_file_is_found_in_an_installed_package_by_itself() -> None:
    carried_by("litellm")
    assert TokenVocabulary().decode([15339, 1917], "input") == "hello world"


def test_the_file_is_found_where_tiktokens_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CL100K_FILE).write_bytes((carried_by("litellm") / CL100K_FILE).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert TokenVocabulary().decode([15339], "input") == "hello"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_ids_give_back_the_text_they_were_made_from(
    encoding: tiktoken.Encoding, vocabulary: TokenVocabulary, text: str
) -> None:
    assert vocabulary.decode(encoding.encode_ordinary(text), "input") == text


@pytest.mark.parametrize("token", [-1, 100_256, 100_270, 100_277, 2**40])
def test_an_id_that_the_vocabulary_lacks_is_refused_with_its_place(
    token: int, vocabulary: TokenVocabulary
) -> None:
    with pytest.raises(InvalidRequest, match="cl100k_base does not have") as refused:
        vocabulary.decode([15339, token], "input[3]")
    assert refused.value.param == "input[3]"


def test_without_the_file_the_answer_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> tiktoken.Encoding:
        raise ConnectionError("no route to example.org")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(InvalidRequest) as refused:
        TokenVocabulary(tmp_path).decode([1], "input[0]")
    assert refused.value.param == "input[0]"
    for hint in ("APPLIANCE_TOKEN_VOCABULARY_DIR", CL100K_FILE, "token_ids", "ConnectionError"):
        assert hint in refused.value.message


def test_a_download_that_hangs_is_not_waited_for(hanging_download: threading.Event) -> None:
    with pytest.raises(InvalidRequest, match="takes too long"):
        TokenVocabulary(download_seconds=0.01).decode([1], "input")


def test_a_download_that_ends_late_serves_the_requests_after_it(
    hanging_download: threading.Event,
) -> None:
    vocabulary = TokenVocabulary(carried_by("litellm"), download_seconds=0.01)
    with pytest.raises(InvalidRequest):
        vocabulary.decode([15339], "input")
    reader = vocabulary._reader
    assert reader is not None
    hanging_download.set()
    reader.join(60)
    assert vocabulary.decode([15339], "input") == "hello"


def test_a_failed_download_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiktoken.get_encoding
    vocabulary = TokenVocabulary(carried_by("litellm"))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: 1 / 0)
    with pytest.raises(InvalidRequest, match="ZeroDivisionError"):
        vocabulary.decode([15339], "input")
    monkeypatch.setattr(tiktoken, "get_encoding", real)
    assert vocabulary.decode([15339], "input") == "hello"


def test_many_requests_share_one_download(
    hanging_download: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    hang = tiktoken.get_encoding
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: (calls.append(name), hang(name))[1])
    vocabulary = TokenVocabulary(carried_by("litellm"))
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(vocabulary.decode([15339], "input")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    hanging_download.set()
    for thread in threads:
        thread.join(60)
    assert answers == ["hello"] * 4
    assert len(calls) == 1


def test_a_download_that_hangs_holds_up_the_first_who_asks_and_nobody_else(
    hanging_download: threading.Event,
) -> None:
    vocabulary = TokenVocabulary(download_seconds=0.05)
    with pytest.raises(InvalidRequest):
        vocabulary.decode([15339], "input")
    waits: list[float | None] = []

    class Reader:
        def join(self, seconds: float | None = None) -> None:
            waits.append(seconds)

    vocabulary._reader = Reader()  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match="takes too long"):
        vocabulary.decode([15339], "input")
    assert waits == [0]
