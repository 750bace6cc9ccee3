# SPDX-License-Identifier: Apache-2.0
"""The configuration, exported and imported."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post, put
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from appliance.api.queries import refuse_unknown
from appliance.bodies import parse_body, read_json_body
from appliance.engine.service import Engine
from appliance.errors import Conflict, StorageFailed
from appliance.openapi.operations import operation
from appliance.reconfiguration import Reconfiguration, Replaced, SettingsReport

__all__ = ["ConfigController"]

MOST_BODY_BYTES = 4_000_000
"""More than the settings of a thousand models take."""

_decoder = msgspec.json.Decoder(dict[str, Any])


class ConfigFault(msgspec.Struct):
    """What is wrong with one setting.

    Attributes:
        param: Its path, such as ``models.0.dtype``.
        message: What is wrong, and what is allowed.
    """

    param: str
    message: str


class ConfigFaults(msgspec.Struct):
    """Answer of ``POST /api/config/check``.

    Attributes:
        faults: None: the configuration can be kept.
    """

    faults: list[ConfigFault]


class ConfigController(Controller):
    """The settings of this instance, as a file of settings has them."""

    path = "/api/config"
    tags = ("Configuration",)

    @get("/")
    async def export(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        reconfiguration: NamedDependency[Reconfiguration],
        download: Annotated[
            bool, QueryParameter(description="Have browsers save it as a file.")
        ] = False,
    ) -> Response[dict[str, Any]]:
        """Export what starts an equal instance, secrets left out."""
        refuse_unknown(request, "download")
        headers = {"cache-control": "no-store"}
        if download:
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", engine.settings.name)
            headers["content-disposition"] = f'attachment; filename="{name}.json"'
        return Response(await reconfiguration.export(engine), headers=headers)

    @put("/", operation_class=operation(Conflict, StorageFailed, body=dict[str, Any]))
    async def replace(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        reconfiguration: NamedDependency[Reconfiguration],
    ) -> Response[Replaced]:
        """Import a configuration: serve its models now, and start with it from the next time on."""
        return Response(await reconfiguration.replace(engine, await _values(request, engine)))

    @get("/schema", sync_to_thread=False)
    def schema(
        self,
        engine: NamedDependency[Engine],
        reconfiguration: NamedDependency[Reconfiguration],
    ) -> Response[SettingsReport]:
        """What can be set, what is, and where from."""
        return Response(reconfiguration.report(engine))

    @post("/check", status_code=200, operation_class=operation(body=dict[str, Any]))
    async def check(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        reconfiguration: NamedDependency[Reconfiguration],
    ) -> Response[ConfigFaults]:
        """Say what is wrong with a configuration; changes nothing."""
        faults = await reconfiguration.check(await _values(request, engine))
        return Response(ConfigFaults([ConfigFault(*fault) for fault in faults]))

    @post("/clone", status_code=200, operation_class=operation(body=dict[str, Any]))
    async def clone(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        reconfiguration: NamedDependency[Reconfiguration],
    ) -> Response[dict[str, Any]]:
        """Export with some settings changed; changes nothing here.

        The body has new values by their paths, such as ``port`` or ``models.0.dtype``; ``null``
        takes a setting out. What results is checked.
        """
        changed = await reconfiguration.clone(engine, await _values(request, engine))
        return Response(changed, headers={"cache-control": "no-store"})


async def _values(request: Request[Any, Any, Any], engine: Engine) -> dict[str, Any]:
    seconds = engine.settings.request_timeout_seconds
    return parse_body(await read_json_body(request, seconds, MOST_BODY_BYTES), _decoder)
