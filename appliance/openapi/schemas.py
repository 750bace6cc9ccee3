# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas of what routes read and write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_origin

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from appliance.openapi.words import describe_class, describe_fields

__all__ = ["reference", "schemas_of"]

_TEMPLATE = "#/components/schemas/{}"


def reference(kind: Any) -> dict[str, Any]:
    """How a type is referred to; what has no name of its own is written out."""
    if _is_named(kind):
        return {"$ref": _TEMPLATE.format(kind.__name__)}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_TEMPLATE.format("{name}"))
    return schema


def schemas_of(kinds: Iterable[Any]) -> dict[str, Any]:
    """Schemas by name, of Structs, of pydantic models, and of all that they consist of."""
    kinds = list(dict.fromkeys(kinds))
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (kind, "validation") for kind in kinds if _is_named(kind) and issubclass(kind, BaseModel)
    ]
    structs = _all_structs(kind for kind in kinds if kind not in dict(models))
    _, schemas = msgspec.json.schema_components(structs, ref_template=_TEMPLATE.format("{name}"))
    for kind in structs:
        _describe(kind, schemas[kind.__name__])
    _, parts = models_json_schema(models, ref_template=_TEMPLATE.format("{model}"))
    return dict(sorted({**schemas, **parts.get("$defs", {})}.items()))


def _is_named(kind: Any) -> bool:
    return get_origin(kind) is None and issubclass(kind, msgspec.Struct | BaseModel)


def _describe(kind: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    schema["description"] = describe_class(kind)
    _name_types_of_choices(schema)
    config, fields = kind.__struct_config__, msgspec.structs.fields(kind)
    if not (config.forbid_unknown_fields or config.omit_defaults):  # an answer, with all its fields
        left_out = {field.encode_name for field in fields if field.default is msgspec.UNSET}
        schema["required"] = [name for name in schema["properties"] if name not in left_out]
    told = describe_fields(kind)
    for field in fields:
        if field.name in told:
            schema["properties"][field.encode_name].setdefault("description", told[field.name])
    if config.tag_field in told:
        schema["properties"][config.tag_field]["description"] = told[config.tag_field]


def _name_types_of_choices(schema: Any) -> None:
    """Say that choices of words are text, as pages that show a schema do not look."""
    if isinstance(schema, dict):
        choices = schema.get("enum")
        if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
            schema.setdefault("type", "string")
        for part in schema.values():
            _name_types_of_choices(part)
    elif isinstance(schema, list):
        for part in schema:
            _name_types_of_choices(part)


def _all_structs(kinds: Iterable[type]) -> set[type[msgspec.Struct]]:
    """Structs, and those that they consist of."""
    found: set[type[msgspec.Struct]] = set()

    def visit(info: Any) -> None:
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                return
            found.add(info.cls)
            for field in info.fields:
                visit(field.type)
            return
        for name in ("type", "item_type", "key_type", "value_type"):
            if hasattr(info, name):
                visit(getattr(info, name))
        for part in (*getattr(info, "types", ()), *getattr(info, "item_types", ())):
            visit(part)

    for kind in kinds:
        visit(msgspec.inspect.type_info(kind))
    return found
