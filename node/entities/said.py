"""What requests about entities and groups say, checked. Everything raises InvalidRequest."""

from collections.abc import Mapping
from typing import Any

from node.auth import fields
from node.auth.identity import ROOT
from node.entities.records import (
    METADATA_KEY_CHARACTERS_MAX,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    POLICIES_MAX,
)
from node.errors import InvalidRequest
from node.policy.parse import PolicyError, policy_name


def name(data: Mapping[str, Any], field: str = "name") -> str:
    """A name; "" if none is given."""
    given = fields.text(data.get(field), field)
    if len(given) > NAME_CHARACTERS_MAX or not given.isprintable():
        raise InvalidRequest(f'field "{field}" has at most {NAME_CHARACTERS_MAX} printable characters')
    return given


def policies(data: Mapping[str, Any]) -> list[str] | None:
    """Canonical, sorted, each once; None if nothing is said."""
    if data.get("policies") is None:
        return None
    given = fields.strings(data["policies"], "policies")
    if len(given) > POLICIES_MAX:
        raise InvalidRequest(f"at most {POLICIES_MAX} policies")
    try:
        canonical = {policy_name(each) for each in given}
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None
    if ROOT in canonical:
        raise InvalidRequest("policies cannot contain root")
    return sorted(canonical)


def metadata(data: Mapping[str, Any], field: str = "metadata") -> dict[str, str] | None:
    """Pairs; None if nothing is said."""
    if data.get(field) is None:
        return None
    pairs = fields.string_map(data[field], field)
    if (
        len(pairs) > METADATA_PAIRS_MAX
        or any(len(key) > METADATA_KEY_CHARACTERS_MAX for key in pairs)
        or any(len(value) > METADATA_VALUE_CHARACTERS_MAX for value in pairs.values())
    ):
        raise InvalidRequest(
            f'field "{field}" has at most {METADATA_PAIRS_MAX} pairs of {METADATA_KEY_CHARACTERS_MAX}'
            f" and {METADATA_VALUE_CHARACTERS_MAX} characters"
        )
    return pairs


def ids(data: Mapping[str, Any], field: str, limit: int) -> list[str] | None:
    """Ids in the order given, each once; None if nothing is said."""
    if data.get(field) is None:
        return None
    given = list(dict.fromkeys(fields.strings(data[field], field)))
    if len(given) > limit:
        raise InvalidRequest(f'field "{field}" has more than {limit} items')
    return given
