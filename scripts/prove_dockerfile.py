# SPDX-License-Identifier: Apache-2.0
"""Build the image without a container engine, run it, and tell its size.

Every step of the Dockerfile is carried out in a folder, by chroot, on a bare Debian from the
mirror; then the entrypoint is run as the image's user, without any capability, on a read-only root
with ``/tmp`` in memory and the volumes writable. Asked are the health check, ``/health`` and a
vector of each model; it is told to stop in the middle of a request. What an engine does and this
does not: layers, the network's and the processes' isolation, and the seccomp profile.

Takes root, Debian's package ``debootstrap``, 10 GB and some minutes.

    python scripts/prove_dockerfile.py WORK_FOLDER [--build-arg NAME=VALUE] ...

Where PyPI and PyTorch's index are mirrored, ``--build-arg`` and ``--run-env`` name the mirrors, and
``--mount HOST_PATH:PATH`` shows the steps what is needed of this machine, such as certificates.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from container_lib.building import Builder, Built, command_in, size
from container_lib.dockerfile import needed, read_stages

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000
START_SECONDS = 120.0
STOP_SECONDS = 240.0
NOT_WRITABLE = ("/etc/a", "/opt/appliance/a", "/opt/models/a", "/a")
WRITABLE = ("/cache/a", "/data/a", "/tmp/a")  # noqa: S108  # the container's own
HELLO_WORLD = [9906, 11, 1917]
"""``Hello, world`` in token ids of cl100k_base."""

TEXTS = ["a text that takes a moment " * 20] * 128


def main() -> int:
    """Run the script."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    given = _pairs(arguments.build_arg, "=")
    stages = read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8"), given)
    mounts = {path: Path(source) for source, path in _pairs(arguments.mount, ":").items()}
    builder = Builder(ROOT, arguments.work, given, mounts, _pairs(arguments.run_env, "="))
    began = time.monotonic()
    built: list[Built] = [builder.build(stage) for stage in needed(stages)]
    print(f"\nbuilt in {time.monotonic() - began:.0f} s")
    _tell_sizes(built[-1].root, size(arguments.work / "base-bookworm"))
    with _running(built[-1], arguments.work) as process:
        process.prove()
    print("\nproven")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("work", type=Path, help="folder for the stages' files")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--run-env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--mount", action="append", default=[], metavar="HOST_PATH:PATH")
    parsed = parser.parse_args()
    parsed.work = parsed.work.resolve()
    return parsed


def _pairs(given: list[str], separator: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition(separator) for each in given)}


def _tell_sizes(root: Path, base: int) -> None:
    whole = size(root)
    print(
        f"installed size {whole / MEGABYTE:.0f} MB, of which Debian's base {base / MEGABYTE:.0f} MB"
    )
    packages = root / "opt/appliance/lib/python3.11/site-packages"
    sizes = sorted(((size(each), each.name) for each in packages.iterdir()), reverse=True)
    for taken, name in sizes[:12]:
        print(f"{taken / MEGABYTE:7.0f} MB  {name}")


class Running:
    """The image's entrypoint, at work.

    Args:
        built: The image.
        process: The process.
        port: Where it listens.
        key: What opens it.
        volumes: Folder with what it keeps.
    """

    def __init__(
        self, built: Built, process: subprocess.Popen[bytes], port: int, key: str, volumes: Path
    ) -> None:
        self._built = built
        self._process = process
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=STOP_SECONDS,
        )
        self._port = port
        self._volumes = volumes

    def prove(self) -> None:
        """Ask what an engine, a client and a cautious administrator would."""
        self._wait_until_well()
        self._prove_rights()
        health = self._inside([*self._built.image.health])
        assert health.returncode == 0, health.stderr
        print("health check: 0")
        token = self._inside(["appliance", "token", "create", "ci"])
        assert token.returncode == 0, token.stderr
        print("`appliance token create` works beside the server")
        models = [model["id"] for model in self._client.get("/v1/models").json()["data"]]
        for model in models:
            vectors = self._embed(model, ["Hello, world"])
            print(f"one embedding of {model}: {len(vectors[0])} values")
            assert self._embed(model, [HELLO_WORLD]) == vectors
            print("token ids of cl100k_base: the same vector")
        self._prove_draining(models[0])

    def _embed(self, model: str, texts: list[str] | list[list[int]]) -> list[list[float]]:
        said = self._client.post("/v1/embeddings", json={"model": model, "input": texts})
        said.raise_for_status()
        return [item["embedding"] for item in said.json()["data"]]

    def _wait_until_well(self) -> None:
        began = time.monotonic()
        while time.monotonic() < began + START_SECONDS:
            if self._process.poll() is not None:
                raise RuntimeError(f"it ended with {self._process.returncode}")
            try:
                if self._client.get("/health").status_code == httpx.codes.OK:
                    print(f"/health is 200 after {time.monotonic() - began:.1f} s")
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError("/health did not turn 200")

    def _prove_rights(self) -> None:
        for path in NOT_WRITABLE:
            assert self._inside(["touch", path]).returncode != 0, path
        for path in WRITABLE:
            done = self._inside(["touch", path])
            assert done.returncode == 0, done.stderr
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split()[0] == self._built.image.user.partition(":")[0]
        assert all(int(fields[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd"))
        print(f"runs as {self._built.image.user} with no capabilities; the root is read-only")

    def _inside(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        made = _command(self._built, command, {"APPLIANCE_PORT": str(self._port)}, self._volumes)
        return subprocess.run(made, check=False, capture_output=True, text=True)

    def _prove_draining(self, model: str) -> None:
        answers: list[list[list[float]]] = []
        request = threading.Thread(target=lambda: answers.append(self._embed(model, TEXTS)))
        request.start()
        working = f'appliance_model_requests{{model="{model}"}} 1.0'
        while working not in self._client.get("/metrics").text:
            time.sleep(0.01)
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        request.join(STOP_SECONDS)
        assert code == 0, code
        assert len(answers[0]) == len(TEXTS)
        print(
            f"SIGTERM under way: answered, and ended with 0 after {time.monotonic() - began:.1f} s"
        )


@contextmanager
def _running(built: Built, work: Path) -> Iterator[Running]:
    volumes = work / "volumes"
    shutil.rmtree(volumes, ignore_errors=True)
    for (
        path
    ) in built.image.volumes:  # as an engine fills a new volume: with what the image has there
        subprocess.run(["mkdir", "--parents", volumes], check=True)
        source = built.root / path.lstrip("/")
        subprocess.run(["cp", "--archive", source, volumes / path.lstrip("/")], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = secrets.token_hex(16)
    variables = {
        "APPLIANCE_PORT": str(port),
        "APPLIANCE_API_KEYS": key,
        "APPLIANCE_DRAIN_TIMEOUT_SECONDS": "200",  # this machine may be busy
        "HF_HUB_OFFLINE": "1",
    }
    command = _command(built, built.image.entrypoint, variables, volumes)
    process = subprocess.Popen(command)
    try:
        yield Running(built, process, port, key, volumes)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _command(
    built: Built, command: list[str], variables: Mapping[str, str], volumes: Path
) -> list[str]:
    user, _, group = built.image.user.partition(":")
    environment = {"HOME": "/data", **built.image.environment, **variables}
    inside = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    inside += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    inside += ["env", "-i", f"--chdir={built.image.folder}"]
    inside += [f"{name}={value}" for name, value in environment.items()]
    places = {path: volumes / path.lstrip("/") for path in built.image.volumes}
    return command_in(built.root, [*inside, *command], {}, read_only=True, volumes=places)


if __name__ == "__main__":
    if os.getuid() != 0:
        sys.exit("prove_dockerfile: chroot and mounts take root")
    sys.exit(main())
