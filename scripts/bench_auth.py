# SPDX-License-Identifier: Apache-2.0
"""Whether the time or the bytes of a refusal tell what is wrong with a key.

    python scripts/bench_auth.py

Serves from a process of its own and asks with no key, a malformed one, an unknown, a revoked, an
expired and a good one, in random order within each round, on connections that stay open. Keys are
asked with again and again (the server remembers what its database said for a few seconds), and
each but once. Prints Markdown: the median time of each kind and, against unknown keys, the
difference of the medians with its 95 % interval by bootstrap and the p of a Mann-Whitney test; and
ends with 1 if the answer to a revoked or expired key has other bytes than that to an unknown one.
"""

from __future__ import annotations

import argparse
import random
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from urllib.parse import urlsplit

import httpx
import numpy as np
import scipy  # type: ignore[import-untyped]
from bench_lib.machine import machine_line
from bench_lib.own_server import serve
from bench_lib.servers import MODEL
from scipy import stats

MODELS = [{"model": f"embedded:{MODEL}", "eager": False}]  # none is needed, so none is loaded
ADMIN = secrets.token_urlsafe(32)
KINDS = ("none", "malformed", "unknown", "revoked", "expired", "good")
BASELINE = "unknown"
ALIKE = ("revoked", "expired")
VARYING = (b"date", b"x-request-id", b"openai-processing-ms")
ROUNDS_OF_AN_ADDRESS = 4
"""Rounds from one address, of four wrong keys each: one that has had 20 is turned away."""
EXPIRY_SECONDS = 1.5
TIMEOUT_SECONDS = 60

Keys = Mapping[str, Sequence[bytes | None]]
Times = dict[str, list[float]]
Answers = dict[str, set[bytes]]


def new_key() -> str:
    """A key of the right form that no server knows."""
    return "eap_" + secrets.token_urlsafe(32)


def make_keys(url: str, number: int) -> Keys:
    """Have the server make keys, so many of each kind, and spoil what is to be bad."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as client:

        def make(expires: bool = False) -> tuple[str, str]:
            body = {"name": "bench"}
            if expires:
                end = datetime.now(UTC) + timedelta(seconds=EXPIRY_SECONDS)
                body["expires_at"] = end.isoformat()
            made = client.post("/api/tokens", json=body).raise_for_status().json()
            return made["token"]["id"], made["secret"]

        revoked = [make() for _ in range(number)]
        for token_id, _ in revoked:
            client.delete(f"/api/tokens/{token_id}").raise_for_status()
        expired = [make(expires=True) for _ in range(number)]
        good = [make() for _ in range(number)]
    time.sleep(EXPIRY_SECONDS)
    bearers = {
        "malformed": [f"Bearer {secrets.token_hex(3)}" for _ in range(number)],
        "unknown": [f"Bearer {new_key()}" for _ in range(number)],
        "revoked": [f"Bearer {secret}" for _, secret in revoked],
        "expired": [f"Bearer {secret}" for _, secret in expired],
        "good": [f"Bearer {secret}" for _, secret in good],
    }
    return {"none": [None] * number} | {
        kind: [value.encode() for value in values] for kind, values in bearers.items()
    }


def addresses() -> Iterator[str]:
    """Addresses of this machine, each of which the server takes for another client's."""
    for number in count(1):
        yield f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


def read_answer(connection: socket.socket) -> bytes:
    """One whole answer."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        more = connection.recv(65_536)
        answer, body = answer + more, body + more
    return answer


def ask(connection: socket.socket, authorization: bytes | None) -> tuple[float, bytes]:
    """Ask for the list of models; the microseconds until the whole answer, and its bytes."""
    header = b"" if authorization is None else b"authorization: " + authorization + b"\r\n"
    request = b"GET /v1/models HTTP/1.1\r\nhost: bench\r\n" + header + b"\r\n"
    started = time.perf_counter()
    connection.sendall(request)
    answer = read_answer(connection)
    return (time.perf_counter() - started) * 1e6, answer


def steady_part(answer: bytes) -> bytes:
    """An answer without the headers that differ between any two."""
    head, _, body = answer.partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if line.split(b":")[0].lower() not in VARYING]
    return b"\r\n".join(kept) + b"\r\n\r\n" + body


def time_answers(
    url: str, keys: Keys, rounds: int, clients: Iterator[str]
) -> tuple[Times, Answers]:
    """Ask with one key of each kind a round."""
    server = urlsplit(url)
    times: Times = {kind: [] for kind in KINDS}
    answers: Answers = {kind: set() for kind in KINDS}
    for first in range(0, rounds, ROUNDS_OF_AN_ADDRESS):
        source = (next(clients), 0)
        with socket.create_connection(
            (server.hostname or "", server.port or 0), TIMEOUT_SECONDS, source
        ) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask(connection, b"Bearer " + ADMIN.encode())  # the first on a connection takes longer
            for number in range(first, min(first + ROUNDS_OF_AN_ADDRESS, rounds)):
                for kind in random.sample(KINDS, len(KINDS)):
                    taken, answer = ask(connection, keys[kind][number % len(keys[kind])])
                    times[kind].append(taken)
                    answers[kind].add(steady_part(answer))
    return times, answers


def interval(sample: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the difference of two medians."""
    found = stats.bootstrap(
        (np.array(sample), np.array(baseline)),
        lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis),
        n_resamples=2000,
        batch=100,
        method="percentile",
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def report(title: str, times: Times, answers: Answers) -> Iterable[str]:
    """One table."""
    yield f"| {title} | status | median, us | p95, us | - unknown, us [95 %] | p | bytes |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    baseline = times[BASELINE]
    for kind in KINDS:
        sample = times[kind]
        low, high = interval(sample, baseline)
        difference = np.median(sample) - np.median(baseline)
        p = stats.mannwhitneyu(sample, baseline).pvalue
        compared = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] | {p:.3f}"
        cells = "- | -" if kind == BASELINE else compared
        status = {answer.split(b" ", 2)[1].decode() for answer in answers[kind]}
        alike = "the same" if answers[kind] == answers[BASELINE] else "others"
        yield (
            f"| {kind} | {', '.join(sorted(status))} | {np.median(sample):.1f}"
            f" | {np.percentile(sample, 95):.1f} | {cells} | {alike} |"
        )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3000, help="with keys that come again")
    parser.add_argument("--fresh", type=int, default=600, help="rounds with keys that come once")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(MODELS, data_dir=folder, api_keys=[ADMIN]) as server,
    ):
        keys = make_keys(server.url, options.fresh + 1)
        clients = addresses()
        fresh = {kind: values[1:] for kind, values in keys.items()}
        again = {kind: values[:1] for kind, values in keys.items()}
        runs = {
            "keys that come again": time_answers(server.url, again, options.rounds, clients),
            "keys that come once": time_answers(server.url, fresh, options.fresh, clients),
        }
    for title, (times, answers) in runs.items():
        print(*report(f"{title}, {len(times[BASELINE])} rounds", times, answers), "", sep="\n")
    print(f"- {machine_line({'scipy': scipy.__version__})}")
    is_told = any(
        answers[kind] != answers[BASELINE] for _, answers in runs.values() for kind in ALIKE
    )
    return int(is_told)


if __name__ == "__main__":
    sys.exit(main())
