# SPDX-License-Identifier: Apache-2.0
"""HTTPS, with a certificate made for the occasion."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from appliance.cli import main
from appliance.server import GOODBYE_SECONDS, LINGER_SECONDS
from tests.conftest import run_process
from tests.processes import Process


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


@dataclass
class Secured:
    """A server that speaks HTTPS, in a process of its own."""

    port: int
    trust: ssl.SSLContext
    process: Process

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.trust.wrap_socket(plain, server_hostname="localhost")

    def client(self) -> httpx.Client:
        url = f"https://localhost:{self.port}"
        return httpx.Client(base_url=url, verify=self.trust, timeout=60)


@contextmanager
def secured(certificate: tuple[Path, Path]) -> Iterator[Secured]:
    flags = ("--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1]))
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with run_process(*flags, trust=trust) as server:
        assert server.process is not None
        yield Secured(int(server.url.rpartition(":")[2]), trust, server.process)


def test_https_is_served_where_there_is_a_certificate(certificate: tuple[Path, Path]) -> None:
    with secured(certificate) as server:
        with server.client() as client:
            body = {"model": "all-MiniLM-L6-v2", "input": "a"}
            assert client.post("/v1/embeddings", json=body).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{server.port}/health")


TEXTS = 2000


def post(connection: ssl.SSLSocket) -> None:
    """Ask for an answer of many megabytes, far more than sockets hold."""
    body = json.dumps({"model": "all-MiniLM-L6-v2", "input": ["a"] * TEXTS}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def read_body(connection: ssl.SSLSocket) -> bytes:
    """Read an answer from its second byte on."""
    with connection.makefile("rb") as file:
        length = 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return file.read(length)


def test_who_holds_a_connection_open_does_not_hold_up_the_stop(
    certificate: tuple[Path, Path],
) -> None:
    with (
        secured(certificate) as server,
        server.connect() as idle,
        socket.create_connection(("127.0.0.1", server.port)),  # and never begins TLS
    ):
        idle.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        server.process.terminate()
        # asyncio by itself waits 30 s for the client to agree to the end.
        assert server.process.wait(25) == 0


@pytest.mark.slow
def test_what_was_accepted_is_answered_to_those_who_read_slowly(
    certificate: tuple[Path, Path],
) -> None:
    with secured(certificate) as server, server.connect() as slow, server.connect() as busy:
        post(slow)
        assert slow.recv(1) == b"H"  # the rest does not fit in any buffer, and is on its way
        post(busy)
        server.process.terminate()
        assert len(json.loads(read_body(busy))["data"]) == TEXTS
        time.sleep(2 * (LINGER_SECONDS + GOODBYE_SECONDS))
        assert server.process.poll() is None
        assert len(json.loads(read_body(slow))["data"]) == TEXTS
        assert server.process.wait(25) == 0


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_cannot_be_read_stops_the_start(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "cert.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AssertionError) as stopped, run_process("--tls-certificate", str(file)):
        pass
    assert "tls_certificate, tls_key: [" in str(stopped.value)
    assert "Traceback" not in str(stopped.value)


def test_a_key_without_a_certificate_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "validate", "--tls-key", "key.pem"]) == 2
    assert "tls_key is set, but tls_certificate" in capsys.readouterr().err
