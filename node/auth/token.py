"""The rules of service tokens: what may be created by whom, how long it lives, what others see of it.

Pure, but for the sweep at the end; the clock comes in. The semantics are those of Vault's token store
(https://developer.hashicorp.com/vault/api-docs/auth/token), and so are the texts of errors and warnings,
because tools show them. Times and durations are nanoseconds, 0 for none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.auth.identity import ROOT
from node.errors import InvalidRequest
from node.policy.default import NAME as DEFAULT
from node.policy.default import WRAPPING
from node.policy.parse import PolicyError, policy_name
from node.store import Store
from storage.command import TokensExpire
from storage.rows import Token

DEFAULT_TTL_NS = 768 * 3600 * SECOND_NS
MAX_TTL_NS = 768 * 3600 * SECOND_NS
EXPIRE_STEP_TOKENS_MAX = 256  # per command, so that a great expiry holds up no other write
EXPIRE_STEPS_MAX = 64  # per sweep
ID_CHARACTERS_MAX = 256
DISPLAY_NAME_CHARACTERS_MAX = 256
METADATA_BYTES_MAX = 16 * 1024

_DISPLAY_NAME = re.compile(r"[^a-zA-Z0-9-]")
_ID_PREFIXES = ("s.", "hvs.", "b.", "hvb.", "r.", "hvr.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token that may be created, checked against its creator. Names as in storage.command.TokenPut."""

    token: str | None  # None: to be drawn
    parent: bytes | None
    policies: tuple[str, ...]
    display_name: str
    metadata: dict[str, str] | None
    num_uses: int
    ttl_ns: int
    explicit_max_ttl_ns: int
    period_ns: int
    renewable: bool
    warnings: tuple[str, ...]


def wanted(creator: Token, data: Mapping[str, Any], *, sudo: bool, orphan: bool, now_ns: int) -> Wanted:
    """What `creator` gets if it asks for `data`; `sudo` if its policies grant that on the path.

    Raises InvalidRequest where Vault does; nothing is granted beyond the creator's own policies without sudo,
    and nothing at all makes a root token but a root token.
    """
    if creator.num_uses != 0:
        raise InvalidRequest("restricted use token cannot generate child tokens")
    _check_type(data)
    token = _custom_id(data, sudo=sudo)
    if fields.boolean(data.get("no_parent"), "no_parent"):
        _privileged(sudo, "create orphan token")
        orphan = True
    period_ns = fields.duration_ns(data.get("period"), "period")
    if period_ns:
        _privileged(sudo, "create periodic token")
    policies = _policies(creator, data, sudo=sudo)
    explicit_max_ns = fields.duration_ns(data.get("explicit_max_ttl"), "explicit_max_ttl")
    asked_ns = fields.duration_ns(data.get("ttl"), "ttl") or fields.duration_ns(data.get("lease"), "lease")
    ttl_ns = 0
    warnings: list[str] = []
    if period_ns or asked_ns or explicit_max_ns or ROOT not in policies:
        ttl_ns, warnings = grant_ttl(
            asked_ns=asked_ns or (explicit_max_ns if ROOT in policies else 0),
            period_ns=period_ns,
            explicit_max_ns=explicit_max_ns,
            created_ns=now_ns,
            now_ns=now_ns,
        )
    elif creator.expires_ns:
        raise InvalidRequest("expiring root tokens cannot create non-expiring root tokens")
    return Wanted(
        token=token,
        parent=None if orphan else creator.digest,
        policies=policies,
        display_name=_display_name(data),
        metadata=_metadata(data),
        num_uses=_num_uses(data),
        ttl_ns=ttl_ns,
        explicit_max_ttl_ns=explicit_max_ns,
        period_ns=period_ns,
        renewable=ttl_ns > 0 and _renewable(data),
        warnings=tuple(warnings),
    )


def grant_ttl(
    *, asked_ns: int, period_ns: int, explicit_max_ns: int, created_ns: int, now_ns: int
) -> tuple[int, list[str]]:
    """How long from now, and warnings if that is less than asked for.

    A periodic token gets its period each time, and ends only by its explicit maximum; any other ends at the
    latest when the maximum has passed since its creation. InvalidRequest once that has happened.
    """
    maximum_ns = min(explicit_max_ns or MAX_TTL_NS, MAX_TTL_NS)
    ttl_ns = period_ns or asked_ns or DEFAULT_TTL_NS
    ends_ns = created_ns + maximum_ns if explicit_max_ns or not period_ns else now_ns + MAX_TTL_NS
    left_ns = ends_ns - now_ns
    if left_ns <= 0:
        raise InvalidRequest("past the max TTL, cannot renew")
    if ttl_ns <= left_ns:
        return ttl_ns, []
    subject = ("period", "period value") if period_ns else ("TTL", "TTL value")
    warning = (
        f'{subject[0]} of "{_short(ttl_ns)}" exceeded the effective max_ttl of "{_short(maximum_ns)}"; '
        f"{subject[1]} is capped accordingly"
    )
    return left_ns, [warning]


def _short(nanoseconds: int) -> str:
    text = fields.go_duration(nanoseconds)
    return re.sub(r"(?<=[hm])0[ms](0s)?$", "", text)


def _check_type(data: Mapping[str, Any]) -> None:
    kind = fields.text(data.get("type"), "type")
    if kind == "batch":
        raise InvalidRequest("batch tokens are not offered by this server; ask for a service token")
    if kind not in ("", "default", "service", "default-service"):
        raise InvalidRequest("invalid 'token_type' value")
    if fields.text(data.get("entity_alias"), "entity_alias"):
        raise InvalidRequest("'entity_alias' is only allowed in combination with token role")


def _custom_id(data: Mapping[str, Any], *, sudo: bool) -> str | None:
    token = fields.text(data.get("id"), "id")
    if not token:
        return None
    _privileged(sudo, "specify token id")
    for prefix in _ID_PREFIXES[:2]:
        if token.startswith(prefix):
            raise InvalidRequest(f"custom token ID cannot have the '{prefix}' prefix")
    if "." in token:
        raise InvalidRequest("custom token ID cannot have a '.' in the value")
    if len(token) > ID_CHARACTERS_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequest(
            f"a custom token ID has at most {ID_CHARACTERS_MAX} printable ASCII characters and no space"
        )
    return token


def _privileged(sudo: bool, action: str) -> None:
    if not sudo:
        raise InvalidRequest(f"root or sudo privileges required to {action}")


def canonical_policies(names: Sequence[str]) -> tuple[str, ...]:
    """Canonical spelling, sorted, each once; root swallows the others. Raises InvalidRequest."""
    try:
        canonical = {policy_name(name) for name in names}
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None
    if WRAPPING in canonical:
        raise InvalidRequest(f'cannot assign policy "{WRAPPING}"')
    return (ROOT,) if ROOT in canonical else tuple(sorted(canonical))


def _policies(creator: Token, data: Mapping[str, Any], *, sudo: bool) -> tuple[str, ...]:
    no_default = fields.boolean(data.get("no_default_policy"), "no_default_policy")
    asked = canonical_policies(fields.strings(data.get("policies"), "policies"))
    add_default = False
    if not asked:
        asked = creator.policies
    elif sudo:
        add_default = not no_default
    else:
        if not set(asked) <= set(creator.policies) and ROOT not in creator.policies:
            raise InvalidRequest("child policies must be subset of parent")
        add_default = not no_default and DEFAULT in creator.policies
    if ROOT in asked:
        if ROOT not in creator.policies:
            raise InvalidRequest("root tokens may not be created without parent token being root")
        return (ROOT,)
    names = set(asked) | ({DEFAULT} if add_default else set())
    if no_default:
        names.discard(DEFAULT)
    return tuple(sorted(names))


def _display_name(data: Mapping[str, Any]) -> str:
    name = fields.text(data.get("display_name"), "display_name")[:DISPLAY_NAME_CHARACTERS_MAX]
    return _DISPLAY_NAME.sub("-", f"token-{name}").removesuffix("-")


def _metadata(data: Mapping[str, Any]) -> dict[str, str] | None:
    metadata = fields.string_map(data.get("meta"), "meta")
    if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES_MAX:
        raise InvalidRequest(f"meta has more than {METADATA_BYTES_MAX} characters")
    return metadata or None


def _renewable(data: Mapping[str, Any]) -> bool:
    asked = data.get("renewable")
    return True if asked is None else fields.boolean(asked, "renewable")


def _num_uses(data: Mapping[str, Any]) -> int:
    num_uses = fields.integer(data.get("num_uses"), "num_uses")
    if num_uses < 0:
        raise InvalidRequest("number of uses cannot be negative")
    return num_uses


def renewal(row: Token, *, increment_ns: int, now_ns: int) -> tuple[int, list[str]]:
    """The time that a renewal grants, from now. Raises InvalidRequest."""
    if not row.renewable or row.expires_ns == 0:
        raise InvalidRequest("lease is not renewable")
    return grant_ttl(
        asked_ns=increment_ns or row.ttl_ns,
        period_ns=row.period_ns,
        explicit_max_ns=row.explicit_max_ttl_ns,
        created_ns=row.created_ns,
        now_ns=now_ns,
    )


def auth_block(row: Token, *, client_token: str, ttl_ns: int) -> dict[str, Any]:
    """The `auth` of an answer; lease_duration in seconds, to the nearest."""
    return {
        "client_token": client_token,
        "accessor": row.accessor,
        "policies": list(row.policies),
        "token_policies": list(row.policies),
        "metadata": row.metadata,
        "lease_duration": (ttl_ns + SECOND_NS // 2) // SECOND_NS,
        "renewable": row.renewable,
        "entity_id": "",
        "token_type": "service",
        "orphan": row.orphan,
        "mfa_requirement": None,
        "num_uses": row.num_uses,
    }


def lookup_data(row: Token, *, token: str, now_ns: int) -> dict[str, Any]:
    """What a lookup tells; token is "" when it is looked up by its accessor."""
    data: dict[str, Any] = {
        "accessor": row.accessor,
        "creation_time": row.created_ns // SECOND_NS,
        "creation_ttl": row.ttl_ns // SECOND_NS,
        "display_name": row.display_name,
        "entity_id": "",
        "expire_time": fields.rfc3339(row.expires_ns) if row.expires_ns else None,
        "explicit_max_ttl": row.explicit_max_ttl_ns // SECOND_NS,
        "id": token,
        "issue_time": fields.rfc3339(row.created_ns),
        "meta": row.metadata,
        "num_uses": row.num_uses,
        "orphan": row.orphan,
        "path": row.path,
        "policies": list(row.policies),
        "renewable": row.renewable,
        "ttl": max(row.expires_ns - now_ns, 0) // SECOND_NS if row.expires_ns else 0,
        "type": "service",
    }
    if row.period_ns:
        data["period"] = row.period_ns // SECOND_NS
    if row.last_renewal_ns:
        data["last_renewal"] = fields.rfc3339(row.last_renewal_ns)
        data["last_renewal_time"] = row.last_renewal_ns // SECOND_NS
    return data


async def expire_tokens(store: Store) -> int:
    """Revoke what has expired, in steps; returns how many went. For the leader: every node would do, twice.

    Expired tokens are refused whether or not a sweep came by; this makes room and ends their children.
    """
    revoked = 0
    for _ in range(EXPIRE_STEPS_MAX):
        now_ns = store.now_ns()
        if not store.reads.tokens_due(now_ns):
            break
        _, value = await store.submit(TokensExpire(time_ns=now_ns, limit=EXPIRE_STEP_TOKENS_MAX))
        revoked += int(value["revoked"])
    return revoked
