# SPDX-License-Identifier: Apache-2.0
"""What Ollama's API is asked and answers, field by field.

Format: https://github.com/ollama/ollama/blob/main/docs/api.md. Unknown fields, ``options`` among
them, are ignored, as Ollama ignores them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "OllamaDetails",
    "OllamaEmbedRequest",
    "OllamaEmbedResponse",
    "OllamaEmbedTail",
    "OllamaEmbeddingRequest",
    "OllamaEmbeddingResponse",
    "OllamaModel",
    "OllamaModels",
    "OllamaRunningModel",
    "OllamaRunningModels",
    "OllamaShowRequest",
    "OllamaShowResponse",
    "OllamaVersion",
]

_KEEP_ALIVE = msgspec.Meta(
    extra_json_schema={"examples": ["5m", "1h30m", 300, 0, -1]},
)
KeepAlive = Annotated[float | str, _KEEP_ALIVE]


class OllamaEmbedRequest(msgspec.Struct, omit_defaults=True):
    """Texts to embed.

    Attributes:
        model: Name or alias of a model; ``:latest`` behind it means nothing. Needed, but under a
            model's own path.
        input: A text or a list of texts. Without any, the model is only loaded, or, where
            ``keep_alive`` is 0, unloaded.
        truncate: Whether a text that is too long is cut at its end, rather than refused; by
            default it is.
        dimensions: Leading values of each vector to keep; the rest is scaled to unit length. 0:
            all.
        keep_alive: How long the model stays loaded after its last request, until one says
            otherwise: seconds, or a duration such as ``5m`` or ``1h30m``. Less than 0: for ever.
    """

    model: str | None = None
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=0)] | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbedTail(msgspec.Struct):
    """What follows ``model`` and ``embeddings`` in an answer, which is written piece by piece.

    Attributes:
        total_duration: Nanoseconds that the answer took.
        load_duration: Nanoseconds of it that the model was loaded for, or waited for.
        prompt_eval_count: Tokens that the model saw, special tokens included.
    """

    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedResponse(OllamaEmbedTail):
    """Vectors of unit length.

    Attributes:
        model: The name that was asked for.
        embeddings: The vectors, in the order of the texts.
    """

    model: str
    embeddings: list[list[float]]


class OllamaEmbeddingRequest(msgspec.Struct, omit_defaults=True):
    """A text to embed.

    Attributes:
        model: As for ``/api/embed``.
        prompt: A text; cut at its end if it is too long. Without any, the model is only loaded,
            or, where ``keep_alive`` is 0, unloaded.
        keep_alive: As for ``/api/embed``.
    """

    model: str | None = None
    prompt: str | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbeddingResponse(msgspec.Struct):
    """One vector.

    Attributes:
        embedding: The vector as the model's chain gives it, not scaled.
    """

    embedding: list[float]


class OllamaDetails(msgspec.Struct):
    """What a model consists of.

    Attributes:
        parent_model: Always empty.
        format: Of the model's files.
        family: Architecture, ``bert`` for example; empty while it is not known, as the model is
            not loaded.
        families: The same as a list.
        parameter_size: Always empty.
        quantization_level: Number format of its weights: ``F32``, ``BF16``, ``INT8``; empty while
            it is not known.
    """

    format: str
    family: str
    families: list[str]
    quantization_level: str
    parent_model: str = ""
    parameter_size: str = ""


class OllamaModel(msgspec.Struct):
    """One name of a model.

    Attributes:
        name: The name, with a tag.
        model: The same.
        modified_at: When the model was configured or added.
        size: Bytes of its weights, wherever they are; 0 while it is not loaded.
        digest: SHA-256 of its settings: the same for all names of one model.
        details: What it consists of.
    """

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(msgspec.Struct):
    """Answer of ``GET /api/tags``.

    Attributes:
        models: The models that the key may use; each name and alias of one by itself.
    """

    models: list[OllamaModel]


class OllamaRunningModel(msgspec.Struct):
    """A model that is loaded.

    Attributes:
        name: Its name, with a tag.
        model: The same.
        size: Bytes of memory that it takes.
        digest: As in ``/api/tags``.
        details: What it consists of.
        expires_at: When it will be unloaded, if nobody asks for it; a hundred years from now:
            never.
        size_vram: Bytes of ``size`` on accelerators.
        context_length: Tokens of the longest text that it reads.
    """

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: datetime
    size_vram: int
    context_length: int


class OllamaRunningModels(msgspec.Struct):
    """Answer of ``GET /api/ps``.

    Attributes:
        models: The models that are loaded, of those that the key may use.
    """

    models: list[OllamaRunningModel]


class OllamaShowRequest(msgspec.Struct, omit_defaults=True):
    """A model to describe.

    Attributes:
        model: Its name or alias; ``:latest`` behind it means nothing.
        name: The same, as older clients send it.
    """

    model: str | None = None
    name: str | None = None


class OllamaShowResponse(msgspec.Struct):
    """One model.

    Attributes:
        details: What it consists of.
        model_info: ``general.architecture``, and behind the prefix that this names
            ``context_length`` and ``embedding_length``: ``bert.embedding_length``.
        capabilities: ``embedding``, if it gives vectors.
        modified_at: When it was configured or added.
        modelfile: A comment that names its source.
        parameters: Always empty.
        template: Always empty.
    """

    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[Literal["embedding"]]
    modified_at: datetime
    modelfile: str
    parameters: str = ""
    template: str = ""


class OllamaVersion(msgspec.Struct):
    """Answer of ``GET /api/version``.

    Attributes:
        version: Of Ollama, whose API this is like.
    """

    version: str
