# SPDX-License-Identifier: Apache-2.0
"""Servers of the standard library, for what is only there in tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

__all__ = ["running"]


@contextmanager
def running(server: HTTPServer) -> Iterator[str]:
    """Have a server answer on a thread until the block ends, and tell its URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
