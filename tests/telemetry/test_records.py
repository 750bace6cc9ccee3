# SPDX-License-Identifier: Apache-2.0
"""What those who keep count are told of requests, and which span is open meanwhile."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from litestar.types import Message, Receive, Scope, Send
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from appliance.engine.types import Embedding, EmbedOptions, FloatMatrix, Timings
from appliance.errors import Overloaded
from appliance.settings import ModelSettings, Settings
from appliance.telemetry.instance import Telemetry
from appliance.telemetry.middleware import EMBEDS, RequestTelemetry
from appliance.telemetry.notes import note_error
from appliance.telemetry.records import RequestRecord
from appliance.telemetry.tracing import Tracing

ROUTE = "/v1/embeddings"


class Handler:
    opt: ClassVar = {EMBEDS: True}


async def nothing() -> Any:
    return {"type": "http.disconnect"}


async def ask(app: RequestTelemetry, handler: type | None = Handler, method: str = "POST") -> None:
    scope: Any = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": ROUTE,
        "http_version": "1.1",
        "headers": [(b"content-length", b"2")],
    }
    if handler is not None:
        scope |= {"route_handler": handler, "path_template": ROUTE}

    async def send(_: Message) -> None:
        """Nobody reads it."""

    await app(scope, nothing, send)


async def answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


class Served:
    """A server of one kind of answer, and what is told of it."""

    def __init__(self, matrix: FloatMatrix, status: int = 200) -> None:
        self.telemetry = Telemetry(Settings(models=(ModelSettings(model="m"),)))
        self.records: list[RequestRecord] = []
        self.app = RequestTelemetry(self._serve, self.telemetry, [self.records.append])
        self.error: Exception | None = None
        self.noted: Exception | None = None
        self._matrix = matrix
        self._status = status

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.telemetry.asked("m")
        if self.error is not None:
            raise self.error
        if self.noted is not None:
            note_error(self.noted)
        else:
            self.telemetry.embedded(EmbedOptions(), Embedding(self._matrix, 7, Timings()))
        await answer(send, self._status)


@pytest.fixture
def matrix() -> FloatMatrix:
    import numpy as np

    return np.zeros((1, 8), dtype=np.float32)


async def test_each_request_for_embeddings_is_told_of(matrix: FloatMatrix) -> None:
    served = Served(matrix)
    await ask(served.app)
    [record] = served.records
    assert (record.route, record.model, record.status, record.tokens) == (ROUTE, "m", 200, 7)
    assert record.seconds > 0


async def test_a_refusal_has_no_tokens(matrix: FloatMatrix) -> None:
    served = Served(matrix, status=429)
    served.noted = Overloaded("full")
    await ask(served.app)
    [record] = served.records
    assert (record.model, record.status, record.tokens) == ("m", 429, 0)


async def test_a_fault_that_nobody_answers_is_told_of(matrix: FloatMatrix) -> None:
    served = Served(matrix)
    served.error = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        await ask(served.app)
    assert [record.status for record in served.records] == [500]


async def test_other_requests_are_not_told_of(matrix: FloatMatrix) -> None:
    served = Served(matrix)
    await ask(served.app, handler=None)
    assert not served.records


async def test_one_that_cannot_keep_count_harms_nobody(
    matrix: FloatMatrix, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: RequestRecord) -> None:
        raise ValueError("full")

    served = Served(matrix)
    app = RequestTelemetry(served.app, served.telemetry, [broken, served.records.append])
    await ask(app)
    assert served.records
    assert "a request could not be noted" in caplog.text


async def test_the_span_of_a_request_is_the_current_one(matrix: FloatMatrix) -> None:
    seen = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(get_current_span().get_span_context())
        await answer(send, 200)

    served = Served(matrix)
    served.telemetry.tracing = Tracing(TracerProvider(), TracerProvider())
    await ask(RequestTelemetry(serve, served.telemetry, []))
    assert seen[0].is_valid
    assert not get_current_span().get_span_context().is_valid
