# SPDX-License-Identifier: Apache-2.0
"""How the document is made.

Format: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme, Server, Tag
from litestar.plugins import OpenAPISchemaPlugin
from litestar.types import ControllerRouterHandler, Method
from litestar.types.internal_types import PathParameterDefinition
from litestar.typing import FieldDefinition

import appliance
from appliance.errors import ApplianceError, Unauthenticated
from appliance.openapi.headers import HEADERS, OPENAI_HEADERS, TAGS, UNREADABLE
from appliance.openapi.operations import BEARER, DescribedOperation, Facts, Refusals
from appliance.openapi.schemas import reference, schemas_of
from appliance.openapi.words import PATH_PARAMETERS, describe_errors, split_summary
from compat.openai_errors import ErrorResponse

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator
    from litestar.openapi.spec import Schema

__all__ = ["make_document"]

_JSON = "application/json"
_METHODS = ("get", "head", "post", "put", "delete")
_WAIT_HEADERS = ("retry-after", "retry-after-ms")
_WAIT_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_DEFAULT_REFUSALS = Refusals(ErrorResponse, OPENAI_HEADERS)


def make_document(
    routes: Sequence[ControllerRouterHandler],
    dependencies: Mapping[str, Provide],
    *,
    is_open: bool,
) -> dict[str, Any]:
    """Make the document. Arguments as for :class:`~appliance.openapi.document.Document`.

    It is read off a second application with the same routes, which is never served: the one that is
    shall neither start later for it nor get the framework's own pages.
    """
    structs = _Structs()
    app = Litestar(
        routes,
        dependencies=dependencies,
        plugins=[structs],
        openapi_config=_config(),
        logging_config=None,
    )
    paths = app.openapi_schema.paths or {}
    document = app.openapi_schema.to_schema()
    kinds: list[Any] = [_DEFAULT_REFUSALS.body, *structs.met]
    for path, item in paths.items():
        for method in _METHODS:
            if (found := getattr(item, method)) is not None:
                facts = found.facts if isinstance(found, DescribedOperation) else Facts()
                kinds += [kind for kind in (*facts.answers.values(), facts.body) if kind]
                kinds += [facts.refusals.body] if facts.refusals else []
                _complete(document["paths"][path][method], facts, path, method, is_open=is_open)
    document["paths"] = dict(sorted(document["paths"].items()))
    document["components"] |= {
        "schemas": schemas_of(kinds),
        "headers": {
            name: {"description": words, "schema": schema}
            for name, (words, schema) in HEADERS.items()
        },
        "responses": {
            status.name: {
                "description": words,
                "content": {"text/plain; charset=utf-8": {"schema": {"type": "string"}}},
            }
            for status, words in UNREADABLE.items()
        },
    }
    return document


def _complete(told: dict[str, Any], facts: Facts, path: str, method: str, *, is_open: bool) -> None:
    """Put in what the framework has left out of an operation."""
    told["summary"], description = split_summary(told.pop("description", ""))
    if description:
        told["description"] = description
    security = told.get("security")
    if security and is_open:
        told["security"] = [*security, {}]
    others = [_query_parameter(p) for p in told.get("parameters", ()) if p["in"] == "query"]
    if parameters := [*_path_parameters(path), *others]:
        told["parameters"] = parameters
    if facts.body is not None:
        content: dict[str, Any] = {"schema": reference(facts.body)}
        if facts.example is not None:
            content["example"] = facts.example
        told["requestBody"] = {"required": True, "content": {facts.body_type: content}}
    errors = facts.all_errors(has_query=bool(others), is_guarded=bool(security))
    told["responses"] = {
        **_good_answers(told["responses"], facts),
        **_refusals(errors, facts),
        **{
            str(status.value): {"$ref": f"#/components/responses/{status.name}"}
            for status in UNREADABLE
        },
    }
    if method == "head":
        for answer in told["responses"].values():
            answer.pop("content", None)


class _Structs(OpenAPISchemaPlugin):
    """Leaves it to msgspec to say what a Struct looks like, and remembers which there are."""

    def __init__(self) -> None:
        self.met: list[type] = []

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(
        self, field_definition: FieldDefinition, schema_creator: SchemaCreator
    ) -> Schema:
        self.met.append(field_definition.annotation)
        return schema_creator.create_component_schema(
            field_definition, required=[], property_fields={}
        )


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS.get(name, ""),
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameter(told: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter as the framework tells of it, less what goes without saying."""
    schema = dict(told["schema"])
    schema.pop("description", None)
    kinds = [kind for kind in schema.pop("oneOf", ()) if kind != {"type": "null"}]  # may be unset
    return {
        "name": told["name"],
        "in": "query",
        "required": told["required"],
        "description": told["description"],
        "schema": {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in {**(kinds[0] if len(kinds) == 1 else {}), **schema}.items()
        },
    }


def _good_answers(told: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    answers = {
        status: answer
        for status, answer in told.items()
        if int(status) < HTTPStatus.BAD_REQUEST and int(status) not in facts.answers
    }
    for code, kind in facts.answers.items():
        content = {} if kind is None else {"content": {_JSON: {"schema": reference(kind)}}}
        answers[str(code)] = content
    for status, answer in answers.items():
        answer["description"] = f"{HTTPStatus(int(status)).phrase}."
        answer["headers"] = _headers(facts.headers)
    return answers


def _refusals(errors: Iterable[type[ApplianceError]], facts: Facts) -> dict[str, Any]:
    answers = {}
    refusals = facts.refusals or _DEFAULT_REFUSALS
    by_status = sorted(dict.fromkeys(errors), key=refusals.status)
    for status, some in groupby(by_status, key=refusals.status):
        if status in facts.answers:
            continue
        group = list(some)
        names = [*refusals.headers]
        if status in _WAIT_STATUSES:
            names += _WAIT_HEADERS
        if status == Unauthenticated.status:
            names.append("www-authenticate")
        answers[str(status)] = {
            "description": describe_errors(group),
            "headers": _headers(names),
        }
        if status not in refusals.without_body:
            answers[str(status)]["content"] = {_JSON: {"schema": reference(refusals.body)}}
    return answers


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


def _config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Embeddings appliance",
        version=appliance.__version__,
        description=appliance.__doc__,
        license=License(name="Apache License 2.0", identifier="Apache-2.0"),
        servers=[Server(url="./")],
        components=Components(
            security_schemes={
                BEARER: SecurityScheme(
                    type="http",
                    scheme="bearer",
                    description="A key of the setting `api_keys`, or a token. Each operation names"
                    " the scope that it asks for; `admin` includes `embed`.",
                )
            }
        ),
        operation_id_creator=_operation_id,
        tags=[Tag(name, words) for name, words in TAGS.items()],
        use_handler_docstrings=True,
        render_plugins=[JsonRenderPlugin()],
    )


def _operation_id(
    _: HTTPRouteHandler, method: Method, path: list[str | PathParameterDefinition]
) -> str:
    """Name an operation by its method and path: ``post_api_models_name_load``."""
    parts = (part if isinstance(part, str) else part.name for part in path)
    return "_".join([method.lower(), *(re.sub(r"\W", "_", part) for part in parts)])
