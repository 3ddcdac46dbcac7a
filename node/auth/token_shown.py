"""What answers tell of a token: to who was given it, and to who looks it up. Pure; the names are those of Vault."""

from collections.abc import Sequence
from typing import Any

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.core.fields import Field, Kind, named
from storage.rows import Token


def auth_block(row: Token, *, client_token: str, ttl_ns: int, extra: Sequence[str] = ()) -> dict[str, Any]:
    """The `auth` of an answer; lease_duration in seconds, to the nearest. `extra`: policies of the entity."""
    identity = {"identity_policies": list(extra)} if extra else {}
    return {
        "client_token": client_token,
        "accessor": row.accessor,
        "policies": sorted({*row.policies, *extra}),
        **({"token_policies": list(row.policies)} if row.policies else {}),
        **identity,
        "metadata": row.metadata,
        "lease_duration": (ttl_ns + SECOND_NS // 2) // SECOND_NS,
        "renewable": row.renewable,
        "entity_id": row.entity_id,
        "token_type": row.kind,
        "orphan": row.orphan,
        "mfa_requirement": None,
        "num_uses": row.num_uses,
    }


LOOKUP = (
    *named(Kind.STRING, "id accessor type display_name path entity_id role"),
    *named(Kind.STRING, "issue_time expire_time last_renewal"),
    *named(Kind.STRINGS, "policies identity_policies bound_cidrs"),
    *named(Kind.INTEGER, "creation_time creation_ttl ttl explicit_max_ttl period num_uses last_renewal_time"),
    *named(Kind.BOOLEAN, "orphan renewable"),
    Field("meta", Kind.STRING_MAP, "What was said of it when it was made."),
    Field("external_namespace_policies", Kind.OBJECT, "Always empty."),
)


def lookup_data(row: Token, *, token: str, now_ns: int, extra: Sequence[str] = ()) -> dict[str, Any]:
    """What a lookup tells; token is "" when it is looked up by its accessor. `extra`: policies of the entity."""
    data: dict[str, Any] = {
        "accessor": row.accessor,
        "creation_time": row.created_ns // SECOND_NS,
        "creation_ttl": row.ttl_ns // SECOND_NS,
        "display_name": row.display_name,
        "entity_id": row.entity_id,
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
        "type": row.kind,
    }
    if extra:
        data["identity_policies"] = list(extra)
        data["external_namespace_policies"] = {}  # there is one namespace
    if row.bound_cidrs:
        data["bound_cidrs"] = list(row.bound_cidrs)
    if row.role and not row.issuer:
        data["role"] = row.role
    if row.period_ns and row.renewable:
        data["period"] = row.period_ns // SECOND_NS
    if row.last_renewal_ns:
        data["last_renewal"] = fields.rfc3339(row.last_renewal_ns)
        data["last_renewal_time"] = row.last_renewal_ns // SECOND_NS
    return dict(sorted(data.items()))
