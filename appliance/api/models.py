# SPDX-License-Identifier: Apache-2.0
"""Models added, removed, loaded and put away while the server runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from pydantic import ValidationError, field_validator

from appliance.api.descriptions import ModelDescription, describe, survey
from appliance.api.queries import refuse_unknown
from appliance.bodies import parse_body, read_json_body
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.errors import (
    Conflict,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    StorageFailed,
)
from appliance.faults import tell_faults
from appliance.openapi.operations import operation
from appliance.settings import ModelSettings

__all__ = ["ModelsController"]

MOST_BODY_BYTES = 1_000_000
"""Far more than the settings of one model take."""

_decoder = msgspec.json.Decoder(dict[str, Any])


class ModelDescriptions(msgspec.Struct):
    """Answer of ``GET /api/models``.

    Attributes:
        models: The models, the default one first.
    """

    models: list[ModelDescription]


class NewModel(ModelSettings):
    """A model to be served, with what can be set for it."""

    persist: bool = False
    """Whether it is to be there after a restart; needs `data_dir`."""

    @field_validator("aliases", mode="before")
    @classmethod
    def _decode_aliases(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("calibration", mode="before")
    @classmethod
    def _decode_path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) else value


_changes = operation(ModelNotFound, ModelUnavailable, Conflict)


class ModelsController(Controller):
    """The models. A hub name has a slash in it, hence the two forms of each path.

    Each answer but the list's is the model's description after the change.
    """

    path = "/api/models"
    tags = ("Models",)

    @get("/", sync_to_thread=False)
    def list_models(self, engine: NamedDependency[Engine]) -> Response[ModelDescriptions]:
        """List the models, the default one first."""
        seen = survey(engine, *engine.models)
        return Response(ModelDescriptions([describe(engine, m, seen) for m in engine.models]))

    @post(
        "/",
        status_code=201,
        operation_class=operation(
            Conflict,
            StorageFailed,
            body=NewModel,
            example={"model": "embedded:all-MiniLM-L6-v2", "name": "team/third"},
            headers=("location",),
        ),
    )
    async def add(
        self, request: Request[Any, Any, Any], engine: NamedDependency[Engine]
    ) -> Response[ModelDescription]:
        """Serve one more model. It loads behind the answer, if it is ``eager``."""
        seconds = engine.settings.request_timeout_seconds
        fields = parse_body(await read_json_body(request, seconds, MOST_BODY_BYTES), _decoder)
        persist = fields.get("persist", False)
        if not isinstance(persist, bool):
            raise InvalidRequest("'persist' is invalid: it must be true or false.", param="persist")
        model = await engine.catalogue.add(_checked(fields), persist=persist)
        location = {"location": quote(f"/api/models/{model.name}")}
        return Response(describe(engine, model), status_code=201, headers=location)

    @get(
        ["/{name:str}", "/{owner:str}/{name:str}"],
        sync_to_thread=False,
        operation_class=operation(ModelNotFound),
    )
    def one_model(
        self,
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
    ) -> Response[ModelDescription]:
        """Describe one model."""
        return Response(describe(engine, engine.model(_joined(owner, name))))

    @delete(
        ["/{name:str}", "/{owner:str}/{name:str}"],
        status_code=200,
        operation_class=operation(
            ModelNotFound,
            StorageFailed,
            answers={200: ModelDescription, 202: ModelDescription},
        ),
    )
    async def remove(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
        persist: Annotated[
            bool,
            QueryParameter(
                description="Whether it is to be gone after a restart, too; needs `data_dir`."
            ),
        ] = False,
    ) -> Response[ModelDescription]:
        """Serve a model no more.

        202 if what it had accepted takes its time; that is answered first.
        """
        refuse_unknown(request, "persist")
        model = await engine.catalogue.remove(_joined(owner, name), persist=persist)
        gone = model not in engine.catalogue.leaving
        return Response(describe(engine, model), status_code=200 if gone else 202)

    @post(
        ["/{name:str}/load", "/{owner:str}/{name:str}/load"],
        status_code=200,
        operation_class=_changes,
    )
    async def load(
        self,
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
    ) -> Response[ModelDescription]:
        """Have a model's weights on its device; answers once they are."""
        return await _changed(engine, _joined(owner, name), engine.catalogue.load)

    @post(
        ["/{name:str}/offload", "/{owner:str}/{name:str}/offload"],
        status_code=200,
        operation_class=_changes,
    )
    async def offload(
        self,
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
    ) -> Response[ModelDescription]:
        """Park a model's weights behind its device; answers once they are there."""
        return await _changed(engine, _joined(owner, name), engine.catalogue.offload)

    @post(
        ["/{name:str}/unload", "/{owner:str}/{name:str}/unload"],
        status_code=200,
        operation_class=_changes,
    )
    async def unload(
        self,
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
    ) -> Response[ModelDescription]:
        """Give back all that a model takes; answers once that is done."""
        return await _changed(engine, _joined(owner, name), engine.catalogue.unload)


async def _changed(
    engine: Engine, name: str, change: Callable[[ServedModel], Awaitable[None]]
) -> Response[ModelDescription]:
    model = engine.model(name)
    await change(model)
    return Response(describe(engine, model))


def _joined(owner: str | None, name: str) -> str:
    return name if owner is None else f"{owner}/{name}"


def _checked(fields: dict[str, Any]) -> ModelSettings:
    try:
        # JSON has types: "2" is no number in it, as it is in the environment.
        new = NewModel.model_validate(fields, strict=True)
        return ModelSettings.model_validate(new.model_dump(exclude={"persist"}, exclude_unset=True))
    except ValidationError as error:
        path = error.errors()[0]["loc"]
        raise InvalidRequest(
            f"The model's settings are invalid. {'; '.join(tell_faults(error))}.",
            param=".".join(str(part) for part in path) or None,
        ) from None
