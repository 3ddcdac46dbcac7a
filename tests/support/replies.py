"""What a node that is well answers to the client library, and how often it was asked."""

from support.stub_api import Reply, StubApi

HEALTH = "GET /v1/sys/health?standbyok=true&perfstandbyok=true"
LOOKUP = "GET /v1/auth/token/lookup-self"
READ, WRITE = "GET /v1/secret/data/app", "PUT /v1/secret/data/app"
LOGIN = "PUT /v1/auth/userpass/login/ann"
SEALED: Reply = (503, {"errors": ["Vault is sealed"]})
META = {
    "version": 3,
    "created_time": "2026-11-22T07:01:24Z",
    "deletion_time": "",
    "destroyed": False,
    "custom_metadata": None,
}
SECRET: Reply = (200, {"data": {"data": {"password": "pw"}, "metadata": META}})
WRITTEN: Reply = (200, {"data": META | {"version": 4}})
DENIED: Reply = (403, {"errors": ["permission denied"]})
ROOT: Reply = (200, {"data": {"ttl": 0, "renewable": False}})
WELL: dict[str, Reply] = {HEALTH: (200, {}), LOOKUP: ROOT, READ: SECRET, WRITE: WRITTEN}


def session(token: str, lifetime_s: int = 3600) -> Reply:
    return 200, {"auth": {"client_token": token, "lease_duration": lifetime_s, "renewable": True}}


def calls(api: StubApi, what: str) -> int:
    """How often something was asked."""
    return sum(f"{method} {path}" == what for method, path, _, _ in api.asked)
