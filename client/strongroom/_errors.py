"""What can go wrong.

StrongroomError
 ├─ ConfigurationError      the client was set up in a way that cannot work
 ├─ Unreachable             no endpoint could be reached; nothing was sent
 ├─ Unavailable             endpoints answered that they cannot serve now (sealed, no leader); nothing happened
 ├─ OutcomeUnknown          a write was sent and its fate is not known: it may have happened
 └─ ApiError                the server's answer to a request, with its status and its words
     ├─ InvalidRequest      400
     │   └─ CasMismatch     check-and-set: another version is current, or one had to be named
     ├─ Forbidden           403: the token is not valid, or its policies do not allow it
     ├─ NotFound            404
     │   └─ Deleted         404: the version was deleted or destroyed; its metadata is still there
     ├─ RateLimited         429, after waiting
     └─ ServerError         5xx of any other kind

No message, argument or representation holds a token or a secret.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


class StrongroomError(Exception):
    """The base of all of them."""


class ConfigurationError(StrongroomError):
    """The client was set up in a way that cannot work."""


class Unreachable(StrongroomError):
    """No endpoint could be reached. Nothing was sent."""


class Unavailable(StrongroomError):
    """Endpoints answered that they cannot serve now. Nothing happened."""


class OutcomeUnknown(StrongroomError):
    """A write was sent, and whether it was made is not known.

    request_id: sent again with the same request within four minutes, it is applied once at most.
    """

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class ApiError(StrongroomError):
    """An answer that is not a success. errors: the server's own words."""

    def __init__(self, status: int, errors: Sequence[str], method: str, path: str) -> None:
        self.status, self.errors, self.method, self.path = status, tuple(errors), method, path
        told = "; ".join(" ".join(error.split()) for error in errors) or "no reason given"
        super().__init__(f"{method} {path} was answered with {status}: {told}")


class InvalidRequest(ApiError):
    """400."""


class CasMismatch(InvalidRequest):
    """Another version is current than the one that was to be replaced, or one had to be named."""


class Forbidden(ApiError):
    """403."""


class NotFound(ApiError):
    """404."""


class Deleted(NotFound):
    """The version was deleted or destroyed. metadata: what is still known about it."""

    metadata: Mapping[str, Any] = MappingProxyType({})


class RateLimited(ApiError):
    """429."""


class ServerError(ApiError):
    """5xx."""


def unexpected(status: int, method: str, path: str) -> ApiError:
    """The error for a success that does not say what one of the API says."""
    told = (
        "the answer is not the API's: is this endpoint a server, and the mount a KV engine of this version?"
    )
    return ApiError(status, [told], method, path)


_BY_STATUS: dict[int, type[ApiError]] = {400: InvalidRequest, 403: Forbidden, 404: NotFound, 429: RateLimited}


def api_error(status: int, body: Any, method: str, path: str) -> ApiError:
    """The error for an answer; `body` is its JSON, or None."""
    told = body.get("errors") if isinstance(body, dict) else None
    errors = [str(error) for error in told] if isinstance(told, list) else []
    if status == 404 and isinstance(body, dict):
        data = body.get("data")
        if isinstance(data, dict) and isinstance(data.get("metadata"), dict) and data.get("data") is None:
            deleted = Deleted(status, ["the version was deleted or destroyed"], method, path)
            deleted.metadata = data["metadata"]
            return deleted
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if kind is InvalidRequest and any("check-and-set parameter" in error for error in errors):
        kind = CasMismatch
    return kind(status, errors, method, path)
