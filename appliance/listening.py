# SPDX-License-Identifier: Apache-2.0
"""Addresses that several servers listen on at once; the kernel shares the connections out."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

__all__ = ["bind_shared", "take_waiting"]


def bind_shared(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host, for others to bind as well. None is listened on yet.

    Args:
        host: A name or an address.
        port: 0: any that is free; the same for all addresses.

    Raises:
        OSError: The system does not have such sockets, or an address cannot be had.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system has no ports that several processes listen on (SO_REUSEPORT)")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # FreeBSD shares connections out by an option of its own, Linux by this one.
            option = getattr(socket, "SO_REUSEPORT_LB", socket.SO_REUSEPORT)
            one.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = port or bound[0].getsockname()[1]
            one.bind((address[0], port, *address[2:]))
    except OSError as error:
        for one in bound:
            one.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(
            error.errno,
            f"port {port} is taken by a process that does not share it: one without reuse_port, or"
            " of another user",
        ) from None
    return bound


def take_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept the connections that wait. Those that still wait when it is closed are reset."""
    taken = []
    with suppress(BlockingIOError):
        while True:
            taken.append(listener.accept()[0])
    for connection in taken:
        connection.setblocking(False)
    return taken
