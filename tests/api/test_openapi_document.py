# SPDX-License-Identifier: Apache-2.0
"""The server's description of itself: valid, complete, and true of what clients send."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import jsonschema
import msgspec
import openai
import pytest
from litestar.handlers import HTTPRouteHandler
from openapi_spec_validator import OpenAPIV31SpecValidator

from appliance.app import create_app
from appliance.settings import ModelSettings, Settings
from compat.openai_types import EmbeddingRequest
from tests.api.access import KEY, guarded
from tests.conftest import RunningServer, run_in_thread

METHODS = ("get", "head", "post", "put", "delete")
MANAGEMENT = "/api/"


@cache
def document_of(*, is_open: bool = False) -> dict[str, Any]:
    settings = guarded() if not is_open else guarded(api_keys=(), auth="none")
    with run_in_thread(settings) as server:
        found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
        return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document_of()["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def served_operations() -> set[tuple[str, str]]:
    """Those that the application routes, but for pages, which say that they stay out of it."""
    context = create_app(guarded())
    app = context
    while not hasattr(app, "routes"):  # within what surrounds each request
        app = app._app
    return {
        (route.path_format or "/", method.lower())
        for route in app.routes
        for method, (handler, _) in route.route_handler_map.items()
        if isinstance(handler, HTTPRouteHandler)
        and handler.resolve_include_in_schema()
        and method != "OPTIONS"
    }


def validator_of(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator(
        {**schema, "components": document_of()["components"]},
        format_checker=jsonschema.FormatChecker(),
    )


def test_it_is_valid() -> None:
    document = document_of()
    assert document["openapi"].startswith("3.1.")
    assert not list(OpenAPIV31SpecValidator(document).iter_errors())
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_has_every_route() -> None:
    told = {(path, method) for path, method, _ in operations()}
    assert told == served_operations()
    assert ("/v1/embeddings", "post") in told
    assert ("/api/models/{owner}/{name}/load", "post") in told


def test_every_operation_is_told_of_in_words() -> None:
    seen = set()
    for path, method, operation in operations():
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["tags"], where
        assert {"200", "201"} & set(operation["responses"]), where
        assert {"500", "424"} & set(operation["responses"]), where  # TEI's word for it is 424
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (where, parameter["name"])
        seen.add(operation["operationId"])
    assert len(seen) == len(list(operations()))


def test_every_field_is_told_of_in_words() -> None:
    untold = [
        f"{name}.{field}"
        for name, schema in document_of()["components"]["schemas"].items()
        for field, told in schema.get("properties", {}).items()
        if not told.get("description") and field != "object"  # OpenAI's, always the same
    ]
    assert not untold


def test_routes_say_which_scope_they_ask_for() -> None:
    for path, method, operation in operations():
        if path in ("/health", "/ready", "/ping") or path.endswith("}/health"):
            assert "security" not in operation
            assert "401" not in operation["responses"]
            continue
        is_management = path.startswith(MANAGEMENT) and operation["tags"] != ["Ollama"]
        scope = "admin" if is_management or path == "/metrics" else "embed"
        assert operation["security"] == [{"bearer": [scope]}], (method, path)
        assert {"401", "403", "429", "503"} <= set(operation["responses"])
    scheme = document_of()["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_a_server_that_asks_for_no_key_says_so() -> None:
    operation = document_of(is_open=True)["paths"]["/v1/embeddings"]["post"]
    assert operation["security"] == [{"bearer": ["embed"]}, {}]


def test_routes_with_a_body_say_how_it_may_fail() -> None:
    for path, method, operation in operations():
        if "requestBody" in operation:
            assert {"400", "408", "413", "415"} <= set(operation["responses"]), (method, path)
    responses = document_of()["paths"]["/v1/embeddings"]["post"]["responses"]
    assert "more tokens than the model reads" in responses["400"]["description"]
    assert {"retry-after", "x-request-id"} <= set(responses["429"]["headers"])
    assert "x-ratelimit-remaining-tokens" in responses["200"]["headers"]


@pytest.mark.parametrize(
    ("body", "is_allowed"),
    [
        ({"input": "a", "model": "m"}, True),
        ({"input": ["a", "b"], "dimensions": 3, "priority": "low"}, True),
        ({"input": [1, 2]}, True),
        ({"input": [[1], [2, 3]], "keep_alive": -1, "user": None}, True),
        ({"model": "m"}, False),
        ({"input": []}, False),
        ({"input": [""]}, False),
        ({"input": ["a", 1]}, False),
        ({"input": "a", "dimensions": 0}, False),
        ({"input": "a", "encoding_format": "hex"}, False),
        ({"input": "a", "output_dtype": "int4"}, False),
        ({"input": "a", "keep_alive": -2}, False),
        ({"input": "a", "modell": "m"}, False),
    ],
)
def test_its_schema_allows_what_the_server_does(body: dict[str, Any], is_allowed: bool) -> None:
    assert validator_of("EmbeddingRequest").is_valid(body) is is_allowed
    with run_in_thread(Settings(models=(ModelSettings(model="m"),))) as server:
        answer = server.embed(**{"model": "m", "token_encoding": "native", **body})
        assert (answer.status_code == 200) is is_allowed, answer.text


def test_every_field_of_the_request_is_in_it() -> None:
    schema = document_of()["components"]["schemas"]["EmbeddingRequest"]
    assert set(schema["properties"]) == {f.name for f in msgspec.structs.fields(EmbeddingRequest)}
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["input"]


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_what_openais_sdk_sends_and_gets_is_as_described(encoding: str | None) -> None:
    exchanges: list[tuple[Any, Any]] = []

    def note(response: httpx.Response) -> None:
        response.read()
        exchanges.append((json.loads(response.request.content), response.json()))

    with run_in_thread(guarded()) as server:
        client = openai.OpenAI(
            base_url=f"{server.url}/v1",
            api_key=KEY,
            http_client=httpx.Client(event_hooks={"response": [note]}),
        )
        chosen: Any = {} if encoding is None else {"encoding_format": encoding}
        client.embeddings.create(
            model="small", input=["a", "b"], dimensions=4, extra_body={"truncate": True}, **chosen
        )
        client.close()
    (sent, got) = exchanges[0]
    validator_of("EmbeddingRequest").validate(sent)
    validator_of("EmbeddingResponse").validate(got)
    assert len(got["data"]) == 2


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(guarded()) as running:
        yield running


def test_document_and_page_need_no_key(server: RunningServer) -> None:
    assert httpx.get(f"{server.url}/openapi.json").headers["content-type"] == "application/json"
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy


def test_the_page_fetches_nothing_from_elsewhere_and_nothing_twice(server: RunningServer) -> None:
    page = httpx.get(f"{server.url}/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    files = [link for link in links if link.startswith("docs/static/")]
    assert len(files) == 3
    assert [link for link in links if "//" in link] == []
    for link in files:
        answer = httpx.get(f"{server.url}/{link}")
        assert "immutable" in answer.headers["cache-control"]
        again = httpx.get(f"{server.url}/{link}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        bare = httpx.get(f"{server.url}/{link.partition('?')[0]}")
        assert bare.headers["cache-control"] == "no-cache"
        assert bare.content == answer.content


def test_files_are_compressed_for_those_who_can_read_them(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        headers = {"accept-encoding": "gzip"}
        with client.stream("GET", "/openapi.json", headers=headers) as answer:
            raw = b"".join(answer.iter_raw())
        plain = client.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert answer.headers["etag"] != plain.headers["etag"]
    assert len(raw) < len(plain.content) / 5


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fdocs.py", "%2E%2E"])
def test_nothing_else_is_sent(server: RunningServer, name: str) -> None:
    answer = httpx.get(f"{server.url}/docs/static/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("Invalid URL")


def test_options_names_every_method_of_a_path(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.options(f"{server.url}/api/models", headers=headers)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "OPTIONS"}


def test_nothing_is_loaded_for_it_before_it_is_asked_for() -> None:
    check = (
        "import sys; from appliance.app import create_app; from appliance.settings import Settings;"
        "create_app(Settings()); print({'docstring_parser', 'offapi'} & sys.modules.keys())"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_new_model_has_the_types_of_json(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    for fields in ({"replicas": "1"}, {"eager": "yes"}, {"aliases": "a,b"}, {"name": {}}):
        body = {"model": "new", **fields}
        answer = httpx.post(f"{server.url}/api/models", json=body, headers=headers)
        assert answer.status_code == 400, (fields, answer.text)
        assert answer.json()["error"]["param"] == next(iter(fields))
