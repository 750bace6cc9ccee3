# SPDX-License-Identifier: Apache-2.0
"""Query parameters: those that are not known are refused, as unknown fields of bodies are."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from litestar import Request
from litestar.exceptions import ValidationException

from appliance.errors import InvalidRequest

__all__ = ["explain", "refuse_unknown"]


def refuse_unknown(request: Request[Any, Any, Any], *known: str) -> None:
    """Refuse a parameter that a route does not have, that is there twice, or that is ``null``.

    The framework would take the last for one that is left out.

    Raises:
        InvalidRequest: Naming it.
    """
    seen: set[str] = set()
    parameters = request.route_handler.parsed_fn_signature.parameters
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise InvalidRequest(
                f"Unrecognized query parameter supplied: {name}. Known are {', '.join(known)}.",
                param=name,
            )
        if name in seen:
            raise InvalidRequest(f"'{name}' is there twice.", param=name)
        if parameters[name].is_optional and value.lower() == "null":
            raise InvalidRequest(f"'{name}' is invalid: it must not be null.", param=name)
        seen.add(name)


def explain(request: Request[Any, Any, Any], error: ValidationException) -> InvalidRequest:
    """Say in the words of an API which parameter the framework would not take."""
    faults: list[Any] = list(error.extra) if isinstance(error.extra, list) else []
    if not faults or not isinstance(faults[0], dict) or "key" not in faults[0]:
        return InvalidRequest(error.detail)
    name, message = faults[0]["key"], faults[0]["message"]
    known = request.route_handler.parsed_fn_signature.parameters.get(name)
    allowed = [] if known is None else [repr(value) for value in _choices(known.annotation)]
    if allowed:
        message = f"it must be one of {', '.join(allowed)}"
    return InvalidRequest(f"'{name}' is invalid: {message}.", param=name)


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]
