# SPDX-License-Identifier: Apache-2.0
"""HTTPS, with a certificate made for the occasion."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from appliance.cli import main
from tests.conftest import run_process


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


def test_https_is_served_where_there_is_a_certificate(certificate: tuple[Path, Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "appliance", "serve", "--port", str(port)]
    command += ["--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1])]
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"https://localhost:{port}", verify=trust) as client:
                wait_until_healthy(client)
                body = {"model": "all-MiniLM-L6-v2", "input": "a"}
                assert client.post("/v1/embeddings", json=body).status_code == 200
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"http://localhost:{port}/health")
        finally:
            process.terminate()


def wait_until_healthy(client: httpx.Client) -> None:
    for _ in range(600):
        with suppress(httpx.ConnectError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not start")


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
