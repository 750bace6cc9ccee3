# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, named once.

An error knows what it means and which HTTP status that meaning has. It knows nothing of JSON: each
dialect under ``compat`` renders it in the shape its own clients read.

::

    ApplianceError
    +- InvalidRequest            400   a field is missing, malformed or not allowed
    |  +- MalformedBody          400   the body is no JSON
    |  +- EmptyInput             400   there is no input, or one is empty
    |  +- InputTooLong           400   one text is longer than the model reads
    |  +- RequestTooManyTokens   400   all texts of one request together
    |  +- TooManyInputs          400   more inputs than one request may have
    |  +- WrongModelKind         400   the model does not give what is asked for
    +- Unauthenticated           401   no key came with the request
    |  +- UnknownKey             401   a key came, but none that is known here
    +- PermissionDenied          403   the key is good, but not for this
    |  +- ModelNotAllowed        403   nor for this model
    +- ModelNotFound             404
    +- RouteNotFound             404
    +- TokenNotFound             404
    +- ObjectNotFound            404   no such file or batch
    +- MethodNotAllowed          405
    +- Conflict                  409   as things stand, it cannot be done
    +- RequestTimeout            408   the body did not arrive in full
    +- PayloadTooLarge           413
    +- UnsupportedMediaType      415
    +- ClientLeft                499   nobody is there to read the answer
    +- Overloaded                429   the model's queue is full
    +- RequestsExceeded          429   the key's quota of requests is used up
    +- TokensExceeded            429   the key's quota of tokens is used up
    +- TooManyAttempts           429   too many bad keys came from the same address
    +- InternalError             500   a fault of ours, told without its details
    +- StorageFailed             500   what was to be kept could not be written
    +- ModelUnavailable          503   loading, failed or stopping
    +- StoreUnavailable          503   the database of tokens does not answer
"""

from __future__ import annotations

__all__ = [
    "ApplianceError",
    "ClientLeft",
    "Conflict",
    "EmptyInput",
    "InputTooLong",
    "InternalError",
    "InvalidRequest",
    "MalformedBody",
    "MethodNotAllowed",
    "ModelNotAllowed",
    "ModelNotFound",
    "ModelUnavailable",
    "ObjectNotFound",
    "Overloaded",
    "PayloadTooLarge",
    "PermissionDenied",
    "RequestTimeout",
    "RequestTooManyTokens",
    "RequestsExceeded",
    "RouteNotFound",
    "StorageFailed",
    "StoreUnavailable",
    "TokenNotFound",
    "TokensExceeded",
    "TooManyAttempts",
    "TooManyInputs",
    "Unauthenticated",
    "UnknownKey",
    "UnsupportedMediaType",
    "WrongModelKind",
]


class ApplianceError(Exception):
    """Root of every error that a client may be told about.

    Attributes:
        status: HTTP status code of this meaning.
        message: One or two sentences for the person who reads the client's log.
        param: Path of the offending field (``input``, ``input[3]``), if there is one.
        retry_after: Seconds after which the same request may succeed, if waiting helps.
    """

    status: int = 500

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InvalidRequest(ApplianceError):
    """A field is missing, malformed or out of range."""

    status = 400


class MalformedBody(InvalidRequest):
    """The body is not the JSON that it is declared as."""


class EmptyInput(InvalidRequest):
    """There is no input, or one has nothing in it."""


class InputTooLong(InvalidRequest):
    """One text has more tokens than the model reads, and the request did not allow a cut.

    Attributes:
        count: Tokens that it has; ``None`` where they were not all counted.
        limit: Tokens that the model reads.
    """

    def __init__(
        self, message: str, *, count: int | None, limit: int, param: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.count = count
        self.limit = limit


class RequestTooManyTokens(InvalidRequest):
    """The texts of one request together exceed ``max_request_tokens``."""


class TooManyInputs(InvalidRequest):
    """One request has more inputs than ``max_client_batch_size``.

    Attributes:
        count: Inputs that it has.
        limit: Inputs that it may have.
    """

    def __init__(self, message: str, *, count: int, limit: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.count = count
        self.limit = limit


class WrongModelKind(InvalidRequest):
    """The model does not give what is asked for: no vectors of a classifier, for example."""


class Unauthenticated(ApplianceError):
    """The request carried no bearer token."""

    status = 401


class UnknownKey(Unauthenticated):
    """The request carried a bearer token that is not known here."""


class PermissionDenied(ApplianceError):
    """The key is good, but does not have the scope that the route asks for."""

    status = 403


class ModelNotAllowed(PermissionDenied):
    """The key is good, but not for this model."""


class ModelNotFound(ApplianceError):
    """No model is served under the name that was asked for."""

    status = 404


class TokenNotFound(ApplianceError):
    """There is no stored token of this id."""

    status = 404


class ObjectNotFound(ApplianceError):
    """There is no file or batch of this id that the key may see."""

    status = 404


class RouteNotFound(ApplianceError):
    """Nothing is served at this path."""

    status = 404


class MethodNotAllowed(ApplianceError):
    """The path exists, but not for this HTTP method."""

    status = 405


class Conflict(ApplianceError):
    """The request is good, but what it asks for cannot be done as things stand."""

    status = 409


class RequestTimeout(ApplianceError):
    """The client stopped sending before its body was complete."""

    status = 408


class PayloadTooLarge(ApplianceError):
    """The body has more bytes than ``payload_limit``."""

    status = 413


class UnsupportedMediaType(ApplianceError):
    """The body is not declared as JSON."""

    status = 415


class ClientLeft(ApplianceError):
    """The connection was closed before the answer was there; no client ever reads of this."""

    status = 499


class Overloaded(ApplianceError):
    """The model's waiting room is full; nothing of the request was kept.

    Attributes:
        bound: What was exceeded, in a word for those who count: ``too_many_requests``,
            ``queue_full``, ``would_wait_too_long``, ``waited_too_long``.
    """

    status = 429

    def __init__(self, message: str, *, bound: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.bound = bound


class RequestsExceeded(ApplianceError):
    """The key has had as many requests as it may have in a minute."""

    status = 429


class TokensExceeded(ApplianceError):
    """The key has had as many tokens as it may have in a minute."""

    status = 429


class TooManyAttempts(ApplianceError):
    """Too many requests with bad keys came from the same address."""

    status = 429


class InternalError(ApplianceError):
    """A fault of the server. The message never carries details; the log does."""

    status = 500


class StorageFailed(ApplianceError):
    """What was to outlive a restart could not be written; nothing has changed."""

    status = 500


class ModelUnavailable(ApplianceError):
    """The model is known but cannot answer now: it is loading, has failed, or the server stops."""

    status = 503


class StoreUnavailable(ApplianceError):
    """The database of tokens cannot be read or written now; nothing has changed."""

    status = 503
