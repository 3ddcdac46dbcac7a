"""-output-curl-string and -output-policy: a command's request, shown instead of sent."""

import enum
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

_CAPABILITIES = {
    "GET": ["read"], "POST": ["create", "update"], "PUT": ["create", "update"], "PATCH": ["patch"], "DELETE": ["delete"]
}  # fmt: skip
_SUDO = re.compile(
    r"auth/token/accessors/?$|auth/token/(revoke-orphan|create-orphan)$|sys/(audit|auth)(/.+)?$|sys/remount$"
    r"|sys/raw(/.*)?$|sys/rotate(/.*)?$|sys/config/(cors|ui/headers(/.*)?)$|sys/plugins/catalog/.+$"
    r"|sys/(leases/)?revoke-(prefix|force)/.*$|sys/leases/lookup(/.*)?$|sys/leases/?$|sys/seal$|sys/step-down$"
)


class Shown(Exception):
    """Not an error: what the user asked to see instead of the request."""


class DryRun(enum.Enum):
    """What to show."""

    CURL = "curl"
    POLICY = "policy"

    def show(
        self, method: str, address: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> None:
        """Raises Shown with the request as a curl command, or as the policy that it needs."""
        if self is DryRun.POLICY:
            raise Shown(policy(method, target))
        raise Shown(curl(method, f"{address}{target}", headers, content))


def curl(method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> str:
    """The token is not in it: a shell puts it in when the command is run."""
    words = ["curl"] + (["-X", method] if method != "GET" else [])
    for name in sorted(headers):
        value = "$(strongroom print token)" if name == "X-Vault-Token" else headers[name]
        words += ["-H", f'"{name}: {value}"']
    if content:
        body = content.decode("utf-8", "replace").replace("'", "'\"'\"'")
        words += ["-d", f"'{body}'"]
    return " ".join([*words, f'"{url}"'])


def policy(method: str, target: str) -> str:
    """The smallest policy that allows the request."""
    url = urlsplit(target)
    path, query = unquote(url.path.removeprefix("/v1/")), parse_qs(url.query)
    listing = next((word for word in ("list", "scan") if query.get(word) == ["true"]), None)
    capabilities = [listing] if method == "GET" and listing else list(_CAPABILITIES[method])
    if _SUDO.match(path):
        capabilities.append("sudo")
    return f'path "{path}" {{\n  capabilities = [{", ".join(f"{chr(34)}{word}{chr(34)}" for word in capabilities)}]\n}}'
