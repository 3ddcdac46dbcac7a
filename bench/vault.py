"""What the two systems that speak the Vault HTTP API have in common: the policy, the token, a write, a read."""

from bench.load import Recipe
from bench.processes import SystemFailedError
from bench.web import Web

POLICY = 'path "secret/data/bench/*" { capabilities = ["create", "update", "read"] }'
BODY = '{"data":{"value":"@VALUE@"}}'


def writer_token(web: Web, address: str, root_token: str) -> str:
    """A token with exactly one policy and without the default one, which slows OpenBao down."""
    headers = {"X-Vault-Token": root_token}
    status, _ = web.ask("PUT", f"{address}/v1/sys/policies/acl/bench", {"policy": POLICY}, headers=headers)
    if status not in (200, 204):
        raise SystemFailedError(f"writing the policy was answered with {status}")
    wish = {"policies": ["bench"], "no_default_policy": True, "ttl": "4h"}
    status, answer = web.ask("POST", f"{address}/v1/auth/token/create", wish, headers=headers)
    if status != 200:
        raise SystemFailedError(f"creating the token was answered with {status}: {answer}")
    return str(answer["auth"]["client_token"])


def recipe(token: str) -> Recipe:
    return Recipe("PUT", "/v1/secret/data/bench/@KEY@", BODY, token)


def read(web: Web, address: str, token: str, key: str) -> str | None:
    """The value that the system holds, None if there is none."""
    headers = {"X-Vault-Token": token}
    status, answer = web.ask("GET", f"{address}/v1/secret/data/bench/{key}", headers=headers)
    return str(answer["data"]["data"]["value"]) if status == 200 else None


def write(web: Web, address: str, token: str, key: str, value: str) -> None:
    """Raises SystemFailedError."""
    headers = {"X-Vault-Token": token}
    url = f"{address}/v1/secret/data/bench/{key}"
    status, answer = web.ask("PUT", url, {"data": {"value": value}}, headers=headers)
    if status != 200:
        raise SystemFailedError(f"writing {key} was answered with {status}: {answer}")
