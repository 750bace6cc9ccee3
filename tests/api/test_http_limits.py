# SPDX-License-Identifier: Apache-2.0
"""What the door holds against: too much, too slowly, or nothing that can be read."""

from __future__ import annotations

import codecs
import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from appliance.bounded_http import MOST_HEADER_BYTES, MOST_HEADERS, MOST_TARGET_BYTES
from appliance.settings import ModelSettings, Settings
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread

MODEL = "fake/model"
GOOD = json.dumps({"model": MODEL, "input": "a"}).encode()
MEGABYTE = 1_000_000
PAYLOAD_LIMIT = 2 * MEGABYTE


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    models = (ModelSettings(model=MODEL, payload_limit=PAYLOAD_LIMIT),)
    with run_in_thread(Settings(models=models)) as running:
        yield running


def connect(server: RunningServer) -> socket.socket:
    url = urlsplit(server.url)
    assert url.hostname is not None
    assert url.port is not None
    return socket.create_connection((url.hostname, url.port), timeout=60)


def send(server: RunningServer, *pieces: bytes) -> bytes:
    """Send raw bytes on a connection of their own; return all that comes back until it closes."""
    with connect(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was closed before all was sent
        answer = b""
        try:
            while piece := connection.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass  # closed with something of ours unread
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def assert_serves(server: RunningServer) -> None:
    assert server.embed(model=MODEL, input="a").status_code == 200


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


def request(headers: bytes = b"", body: bytes = GOOD) -> bytes:
    length = b"content-length: %d\r\nconnection: close\r\n" % len(body)
    return HEAD + headers + length + b"\r\n" + body


def test_the_raw_request_is_a_good_one(server: RunningServer) -> None:
    assert status(send(server, request())) == 200


TOO_MUCH = {
    "one header": (request(b"x: " + b"a" * MOST_HEADER_BYTES + b"\r\n"), 431),
    "many headers": (request(b"x: a\r\n" * MOST_HEADERS), 431),
    "headers in sum": (request((b"x: " + b"a" * 1000 + b"\r\n") * 80), 431),
    "a header's name": (request(b"x" * MOST_HEADER_BYTES + b": a\r\n"), 431),
    "a path": (b"GET /" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
    "a query": (b"GET /health?" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + b"\x03" * 100, 400),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_too_much_before_a_body_is_refused(server: RunningServer, case: str) -> None:
    content, expected = TOO_MUCH[case]
    assert status(send(server, content)) == expected
    assert_serves(server)


def test_as_much_as_is_allowed_is_read(server: RunningServer) -> None:
    several = b"x: " + b"a" * 600 + b"\r\n"
    assert status(send(server, request(several * (MOST_HEADERS - 5)))) == 200
    path = b"GET /health?" + b"a" * (MOST_TARGET_BYTES - 20)
    assert status(send(server, path + b" HTTP/1.1\r\nconnection: close\r\nhost: a\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"x: ",
        HEAD + b"x",
        b"GET /",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1;x=",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: ",
    ],
    ids=["a header", "a header's name", "a path", "a chunk's extension", "a trailer"],
)
def test_what_has_no_end_is_not_gathered(server: RunningServer, start: bytes) -> None:
    before = resident_bytes()
    send(server, start, *[b"a" * MEGABYTE] * 200)
    assert resident_bytes() - before < 50 * MEGABYTE
    assert_serves(server)


def resident_bytes() -> int:
    """Memory of this process, the server in it included."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.parametrize("announced", [False, True], ids=["in chunks", "announced"])
def test_a_body_of_two_gigabytes_is_stopped_at_the_limit(
    server: RunningServer, announced: bool
) -> None:
    size = 2000
    piece = b" " * MEGABYTE
    if announced:
        head, chunk = b"content-length: %d\r\n\r\n" % (size * MEGABYTE), piece
    else:
        head, chunk = b"transfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (MEGABYTE, piece)
    before = resident_bytes()
    sent = most = 0
    with connect(server) as connection:
        try:
            connection.sendall(HEAD + head)
            for _ in range(size):
                connection.sendall(chunk)
                sent += 1
                most = max(most, resident_bytes())
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < size / 10
    assert most - before < 50 * MEGABYTE
    assert_serves(server)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_a_compressed_body_is_refused(server: RunningServer, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    with httpx.Client(base_url=server.url) as client:
        refused = client.post("/v1/embeddings", content=gzip.compress(GOOD), headers=headers)
        assert refused.status_code == 415
        assert "Content-Encoding" in refused.json()["error"]["message"]
        headers["content-encoding"] = "identity"
        assert client.post("/v1/embeddings", content=GOOD, headers=headers).status_code == 200


def test_five_thousand_idle_connections_do_not_keep_others_out(server: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(5000):
            stack.enter_context(connect(server))
        assert_serves(server)
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    script = (
        "import resource\n"
        "from appliance.bounded_http import allow_many_connections\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))\n"
        "allow_many_connections()\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_connection_that_asks_for_nothing_is_closed(server: RunningServer) -> None:
    with connect(server) as silent, connect(server) as halfway, connect(server) as later:
        halfway.sendall(HEAD)
        later.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = b""
        while b"}" not in answer:
            answer += later.recv(65_536)
        later.sendall(b"GET /health")
        assert silent.recv(1) == b""
        assert halfway.recv(1) == b""
        assert later.recv(1) == b""
    assert_serves(server)


DEEP = 100_000
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "brackets": (b"[" * DEEP, "Expected `object`"),
    "brackets that close": (b"[" * DEEP + b"]" * DEEP, "Expected `object`"),
    "braces": (b'{"a":' * DEEP, ""),
    "braces that close": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, ""),
    "brackets in a field": (b'{"model": ' + b"[" * DEEP + b"]" * DEEP + b"}", ""),
    "a byte order mark": (codecs.BOM_UTF8 + GOOD, "byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "byte order mark"),
    "UTF-8 that is none": (b'{"model": "\xff"}', "could not parse"),
    "NaN": (b'{"model": NaN}', "could not parse"),
    "Infinity": (b'{"model": -Infinity}', "could not parse"),
    "a field twice": (b'{"model": "x", "input": "a", "model": "y"}', "'model' is there twice"),
    "a field twice, alike": (
        b'{"model": "x", "input": "a", "model": "x"}',
        "'model' is there twice",
    ),
    "a field twice, spelt otherwise": (
        b'{"model": "x", "input": "a", "\\u006dodel": "y"}',
        "'model' is there twice",
    ),
    "a field twice, one value in the other": (
        b'{ "keep_alive" : 12 , "model": "x","input": "a", "keep_alive":1 }',
        "'keep_alive' is there twice",
    ),
}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/models"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_json_that_could_be_read_in_two_ways_or_in_none_is_refused(
    server: RunningServer, case: str, path: str
) -> None:
    content, words = UNREADABLE[case]
    before = resident_bytes()
    with httpx.Client(base_url=server.url) as client:
        headers = {"content-type": "application/json"}
        refused = client.post(path, content=content, headers=headers)
        assert refused.status_code == 400
        assert words in refused.json()["error"]["message"]
        assert client.post("/v1/embeddings", content=GOOD, headers=headers).status_code == 200
    assert resident_bytes() - before < 50 * MEGABYTE


def test_a_field_twice_in_a_field_is_refused(server: RunningServer) -> None:
    content = b'{"model": "x", "prompts": {"a": "1", "b": "}", "a": "2"}}'
    refused = httpx.post(f"{server.url}/api/models", content=content)
    assert refused.status_code == 400
    assert "'a' is there twice" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "fake/model", "input": "\\"model\\": {\\\\"}',
        b' {\n"input" :\t["model", "model"] , "model":"fake/model"\r\n} ',
        b'{"model": "fake/model", "input": ["a", "{\\"input\\": 1, \\"input\\": 1}"]}',
    ],
)
def test_what_only_looks_like_a_field_is_none(server: RunningServer, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/embeddings", content=content, headers=headers)
    assert answer.status_code == 200


def test_a_prompt_before_many_texts_counts_as_often_as_it_is_there(server: RunningServer) -> None:
    prompt = " " * (PAYLOAD_LIMIT // 4)
    refused = server.embed(model=MODEL, input=["a"] * 5, prompt=prompt)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt"
    assert server.embed(model=MODEL, input=["a"] * 4, prompt=prompt).status_code == 200


def test_a_text_of_a_million_characters_is_refused_or_cut(real_server: RunningServer) -> None:
    text = "the quick brown fox " * 50_000
    refused = real_server.embed(model=REAL_MODEL, input=text)
    assert refused.status_code == 400
    told = "maximum context length is 256 tokens, but input has more than 256"
    assert told in refused.json()["error"]["message"]
    cut = real_server.embed(model=REAL_MODEL, input=text, truncate=True).json()
    same = real_server.embed(model=REAL_MODEL, input=text[:2000], truncate=True).json()
    assert cut["usage"] == same["usage"]
    assert cut["usage"]["total_tokens"] == 256
    assert cut["data"][0]["embedding"] == pytest.approx(same["data"][0]["embedding"], abs=1e-6)
