# SPDX-License-Identifier: Apache-2.0
"""The document, as it is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from appliance.assets import Asset

__all__ = ["Document"]


class Document:
    """What the server says of itself.

    Args:
        routes: The routes.
        dependencies: What is provided to them.
        is_open: Whether no key is asked for.
    """

    def __init__(
        self,
        routes: Sequence[ControllerRouterHandler],
        dependencies: Mapping[str, Provide],
        *,
        is_open: bool,
    ) -> None:
        self._routes = routes
        self._dependencies = dependencies
        self._is_open = is_open

    @cached_property
    def asset(self) -> Asset:
        """It as JSON. Made at the first look, within a tenth of a second; any thread may look."""
        # What it is made with takes time to import, too, which the port need not wait for.
        from appliance.openapi.making import make_document

        made = make_document(self._routes, self._dependencies, is_open=self._is_open)
        return Asset.pack(msgspec.json.encode(made), "application/json")
