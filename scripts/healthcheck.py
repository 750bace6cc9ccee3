# SPDX-License-Identifier: Apache-2.0
"""Exit with 0 if the server in this container is well: the image's ``HEALTHCHECK``.

Standard library only, since it runs every few seconds. The variables say where the server listens,
and whether it speaks HTTPS; a port that is set by a flag or in a file is to be set by
``APPLIANCE_PORT`` instead.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

HOST = "127.0.0.1"
DEFAULT_PORT = "8080"
TIMEOUT_SECONDS = 4.0


def ports() -> list[int]:
    """Where to ask. ``PORT`` counts only if the server was started as TEI is, which is not told."""
    if port := os.environ.get("APPLIANCE_PORT"):
        return [int(port)]
    return [int(os.environ.get("PORT") or DEFAULT_PORT), int(DEFAULT_PORT)]


def status(port: int) -> int:
    """Status of ``/health``.

    Raises:
        OSError: Nobody answers.
        http.client.HTTPException: What answers is no such server.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)
    if os.environ.get("APPLIANCE_TLS_CERTIFICATE"):
        # Its certificate is for the name that clients use, not for this address.
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(
            HOST, port, timeout=TIMEOUT_SECONDS, context=context
        )
    connection.request("GET", "/health")
    return connection.getresponse().status


def main() -> int:
    """Run the script."""
    told = ""
    for port in ports():
        try:
            found = status(port)
        except (OSError, http.client.HTTPException) as error:
            told = told or f"no answer: {error}"
            continue
        if found == http.client.OK:
            return 0
        told = f"/health answers {found}"
    print(told, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
