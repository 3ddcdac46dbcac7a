"""Whose a service account's token is: what it says itself, and what the Kubernetes API says.

The API is TokenReview of authentication.k8s.io/v1. Inside a pod the CA and the token that Kubernetes put there are
used, unless others are configured or that is switched off.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import msgspec
import structlog

from node.auth.methods import jwt_claims
from node.auth.methods.fetching import FetchError, exchange
from node.auth.methods.jwt_keys import ALGORITHMS, from_pem
from node.errors import InvalidRequest, PermissionDenied, TooBusy

IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REVIEW_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
CREATED = 201

log = structlog.get_logger("kubernetes")


class Config(msgspec.Struct, frozen=True):
    """Of a mount. repr() shows no token."""

    kubernetes_host: str
    kubernetes_ca_cert: str = ""
    token_reviewer_jwt: str = ""
    pem_keys: tuple[str, ...] = ()
    issuer: str = ""
    disable_iss_validation: bool = True
    disable_local_ca_jwt: bool = False

    def __repr__(self) -> str:
        return f"Config({self.kubernetes_host!r})"


@dataclass(frozen=True, slots=True)
class Account:
    """A service account, as its token says, or as the API does."""

    namespace: str
    name: str
    uid: str


def claimed(config: Config, token: str) -> Account:
    """Who the token says it is: checked with keys if there are any; the API has the last word. PermissionDenied."""
    try:
        if config.pem_keys:
            claims = jwt_claims.verified(token, [from_pem(key) for key in config.pem_keys], ALGORITHMS)
        elif len(token) <= jwt_claims.JWT_CHARACTERS_MAX:
            claims = jwt.decode(token, options={"verify_signature": False})
        else:
            claims = {}
    except (InvalidRequest, jwt.PyJWTError, ValueError, RecursionError):
        claims = {}
    if config.issuer and not config.disable_iss_validation and claims.get("iss") != config.issuer:
        raise PermissionDenied("permission denied")
    named = claims.get("kubernetes.io")
    found: tuple[Any, ...]
    if isinstance(named, dict) and isinstance(named.get("serviceaccount"), dict):
        account = named["serviceaccount"]
        found = (named.get("namespace"), account.get("name"), account.get("uid"))
    else:  # tokens as they were before Kubernetes 1.21
        names = ("namespace", "service-account.name", "service-account.uid")
        found = tuple(claims.get(f"kubernetes.io/serviceaccount/{each}") for each in names)
    namespace, name, uid = (each if isinstance(each, str) else "" for each in found)
    if not (namespace and name and uid):
        raise PermissionDenied("permission denied")
    return Account(namespace, name, uid)


async def review(config: Config, audience: str, token: str) -> Account:
    """Whose token it is, says the API. Raises PermissionDenied, TooBusy if it cannot be asked."""
    spec: dict[str, Any] = {"token": token}
    if audience:
        spec["audiences"] = [audience]
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    shown = config.token_reviewer_jwt or _in_pod(config, "token") or token
    try:
        answer = await exchange(
            config.kubernetes_host.rstrip("/") + REVIEW_PATH,
            ca_pem=config.kubernetes_ca_cert or _in_pod(config, "ca.crt"),
            body=asked,
            headers={"Authorization": f"Bearer {shown}"},
            statuses=(200, CREATED),
        )
    except FetchError as error:
        log.warning("token review failed", reason=str(error))
        raise TooBusy("the Kubernetes API could not be asked about the token") from None
    return _account(answer, audience)


def _account(answer: Any, audience: str) -> Account:
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or status.get("authenticated") is not True or status.get("error"):
        raise PermissionDenied("permission denied")
    audiences = status.get("audiences") or []
    if audience and audience not in audiences:
        raise PermissionDenied("permission denied")
    user = status.get("user")
    username, uid = (
        (str(user.get(each, "")) for each in ("username", "uid")) if isinstance(user, dict) else ("", "")
    )
    parts = username.split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
        raise PermissionDenied("permission denied")
    return Account(parts[2], parts[3], uid)


def _in_pod(config: Config, name: str) -> str:
    """What Kubernetes put into this server's own pod, if it runs in one and may use it; the token is renewed there."""
    if config.disable_local_ca_jwt:
        return ""
    with contextlib.suppress(OSError):
        return (IN_POD / name).read_text()
    return ""
