# SPDX-License-Identifier: Apache-2.0
"""Being connected to a Ray cluster, or to one that is started for the while."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from pydantic import SecretStr

from appliance.bulk.faults import BulkFault, CommandFault
from appliance.settings import Settings

__all__ = ["check_secrets", "connect"]

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a Ray that is started for the while: rows and vectors do not go through it."""


def check_secrets(settings: Settings, command_line: Sequence[str]) -> None:
    """Make sure that no secret is in the command line, which Ray shows on its dashboard.

    Raises:
        CommandFault: One is; its name is told.
    """
    for name, value in settings:
        for secret in value if isinstance(value, tuple) else (value,):
            if isinstance(secret, SecretStr):
                content = secret.get_secret_value()
                if content and any(content in word for word in command_line):
                    raise CommandFault(
                        "Ray shows the command line to all who see its dashboard; give"
                        f" {name} by the environment or a file instead"
                    )


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Be connected to a cluster while the block runs. One that this process has stays as it is.

    Args:
        address: That of the cluster; ``local`` for one that is started for the while; empty for
            the one that is found, or else such a one.

    Raises:
        CommandFault: There is no cluster at the address, or Ray is not installed.
        BulkFault: None can be started.
    """
    # Unless somebody wants it, nothing is told to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray  # not at the top: it may not be installed, and takes seconds to read
        import ray.data
    except ImportError as error:
        raise CommandFault(
            f"--ray needs Ray, which is not installed ({error}); run: pip install"
            " 'embeddings-appliance[ray]'"
        ) from None
    # Ray's own word on what it does is for its log files; what concerns the user is told by us.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        if ray.is_initialized():
            yield
            return
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            with _no_stderr(nowhere):
                _connect(ray, address)
            signal.signal(signal.SIGTERM, on_term)  # Ray has put its own in its place
            yield
        finally:
            ray.shutdown()


@contextmanager
def _no_stderr(nowhere: TextIO) -> Iterator[None]:
    """Have what libraries in C++ write to standard error go nowhere."""
    kept = os.dup(2)
    os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    if wanted.startswith("ray://"):
        raise CommandFault(
            f"{wanted} is the address for clients, through which rows do not go; run the command on"
            " a machine of the cluster, with the address HOST:PORT of its head or `auto`"
        )
    if wanted != "local":
        try:
            ray.init(address=wanted or "auto", **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if wanted:
                raise CommandFault(
                    f"there is no Ray cluster at {wanted}, or it takes no work from here; one with"
                    f" tokens wants RAY_AUTH_MODE=token. Ray says: {_first_line(error)}"
                ) from None
        else:
            return
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    except Exception as error:  # it has no class for it
        raise BulkFault(f"Ray cannot be started here: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
