"""The client of Strongroom, a replicated secret store.

from strongroom import AppRole, Cache, Client

nodes = ["https://eu-1:8200", "https://eu-2:8200", "https://us-1:8200"]
with Client(nodes, AppRole(role_id, secret_id), cache=Cache()) as client:
    password = client.kv.get("app/db")["password"].reveal()
"""

from strongroom._async_client import AsyncClient, AsyncEvents, AsyncEventStream, AsyncKvV1, AsyncKvV2
from strongroom._auth import AppRole, Credentials, Token, UserPass
from strongroom._cache import Cache
from strongroom._client import Client, Events, EventStream, KvV1, KvV2
from strongroom._consistency import FRESH, LINEARIZABLE, STALE_OK, Consistency
from strongroom._errors import (
    ApiError,
    CasMismatch,
    ConfigurationError,
    Deleted,
    Forbidden,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    StrongroomError,
    Unavailable,
    Unreachable,
)
from strongroom._events import Event
from strongroom._kv import Metadata, SecretVersion, VersionInfo
from strongroom._secret import Secret, SecretMap

__all__ = [
    "FRESH",
    "LINEARIZABLE",
    "STALE_OK",
    "ApiError",
    "AppRole",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncEvents",
    "AsyncKvV1",
    "AsyncKvV2",
    "Cache",
    "CasMismatch",
    "Client",
    "ConfigurationError",
    "Consistency",
    "Credentials",
    "Deleted",
    "Event",
    "EventStream",
    "Events",
    "Forbidden",
    "InvalidRequest",
    "KvV1",
    "KvV2",
    "Metadata",
    "NotFound",
    "OutcomeUnknown",
    "RateLimited",
    "Secret",
    "SecretMap",
    "SecretVersion",
    "ServerError",
    "StrongroomError",
    "Token",
    "Unavailable",
    "Unreachable",
    "UserPass",
    "VersionInfo",
]
