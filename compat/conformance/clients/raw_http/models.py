# SPDX-License-Identifier: Apache-2.0
"""``GET /v1/models``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from compat.conformance.checks import expect, expect_equal, expect_error, read_json
from compat.conformance.registry import Cases
from compat.conformance.samples import UNKNOWN_MODEL
from compat.conformance.target import Target

cases = Cases("http")


@cases
def models_list(target: Target) -> None:
    """The models are listed, each in the documented shape."""
    response = target.http.get("/models")
    expect_equal("status", response.status_code, 200)
    content = read_json(response)
    expect_equal("object", content.get("object"), "list")
    expect(len(content["data"]) > 0, "no model is listed")
    for model in content["data"]:
        _expect_model(model)


@cases
def models_retrieve(target: Target) -> None:
    """Every listed model can be asked for by its id."""
    for name in target.listed_models():
        response = target.http.get(f"/models/{quote(name)}")
        expect_equal(f"status for {name}", response.status_code, 200)
        model = read_json(response)
        _expect_model(model)
        expect_equal("id", model["id"], name)


@cases
def models_retrieve_encoded(target: Target) -> None:
    """A slash in a model's id may be written as %2F, as OpenAI's SDKs do."""
    response = target.http.get(f"/models/{quote(target.model, safe='')}")
    expect_equal("status", response.status_code, 200)


@cases
def models_retrieve_unknown(target: Target) -> None:
    """A model that is not there is a 404."""
    response = target.http.get(f"/models/{UNKNOWN_MODEL}")
    error = expect_error(response, 404, code="model_not_found")
    expect(UNKNOWN_MODEL in error.message, "the message does not name the model")


def _expect_model(model: dict[str, Any]) -> None:
    expect_equal("object of a model", model.get("object"), "model")
    kinds = {"id": str, "created": int, "owned_by": str}
    wrong = [name for name, kind in kinds.items() if not isinstance(model.get(name), kind)]
    expect(not wrong, f"the model {model} lacks {', '.join(wrong)}")
