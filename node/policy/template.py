"""Placeholders in the paths of policies: {{identity.entity.id}} and its like, filled in for the one who asks.

Names follow Vault's templated policies (https://developer.hashicorp.com/vault/docs/concepts/policies) and add
{{token.display_name}}, {{token.accessor}} and {{token.metadata.KEY}}. A rule whose placeholder has no value for
somebody is no rule for him. A value that means something in a path ("*", or "+" between slashes) is a WildError:
what a person or a login says of itself must neither widen a rule that grants nor take away one that denies.
"""

import re
from collections.abc import Iterable, Mapping

from node.entities.directory import Identity
from node.entities.records import Group
from storage.rows import Token

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_WILD = re.compile(r"[*{}]|(?:^|/)\+(?:/|$)")


class WildError(ValueError):
    """A value would change what a pattern matches."""


def is_balanced(text: str) -> bool:
    """Whether every brace pair of a path belongs to a placeholder; else no token would ever have the rule."""
    rest = _PLACEHOLDER.sub("", text)
    return "{{" not in rest and "}}" not in rest


def render(text: str, token: Token, identity: Identity | None) -> str | None:
    """The path for this token; None if the rule does not apply to it. Raises WildError."""
    values = [value(name, token, identity) for name in _PLACEHOLDER.findall(text)]
    if not all(values):
        return None
    if any(each and _WILD.search(each) for each in values):
        raise WildError
    filled = iter(values)
    path = _PLACEHOLDER.sub(lambda _: next(filled) or "", text)
    return None if "{{" in path or "}}" in path else path


def value(name: str, token: Token, identity: Identity | None) -> str | None:
    """What a placeholder stands for."""
    subject, _, rest = name.partition(".")
    if subject == "token":
        return _of_token(rest, token)
    if subject != "identity" or identity is None:
        return None
    part, _, rest = rest.partition(".")
    if part == "entity":
        return _of_entity(rest, identity)
    if part == "groups":
        return _of_groups(rest, identity.groups)
    return None


def _of_token(name: str, token: Token) -> str | None:
    if name == "display_name":
        return token.display_name
    if name == "accessor":
        return token.accessor
    return _metadata(name, "metadata", token.metadata)


def _of_entity(name: str, identity: Identity) -> str | None:
    entity = identity.entity
    if name in ("id", "name"):
        return entity.id if name == "id" else entity.name
    if not name.startswith("aliases."):
        return _metadata(name, "metadata", entity.metadata)
    accessor, _, rest = name.removeprefix("aliases.").partition(".")
    alias = next((each for each in entity.aliases if each.mount_accessor == accessor), None)
    if alias is None:
        return None
    if rest in ("id", "name"):
        return alias.id if rest == "id" else alias.name
    return _metadata(rest, "metadata", alias.metadata) or _metadata(
        rest, "custom_metadata", alias.custom_metadata
    )


def _of_groups(name: str, groups: Iterable[Group]) -> str | None:
    by, _, rest = name.partition(".")
    for group in groups:
        known = group.id if by == "ids" else group.name if by == "names" else ""
        if known and rest.startswith(known + "."):
            wanted = rest[len(known) + 1 :]
            if wanted in ("id", "name"):
                return group.id if wanted == "id" else group.name
            return _metadata(wanted, "metadata", group.metadata)
    return None


def _metadata(name: str, prefix: str, pairs: Mapping[str, str] | None) -> str | None:
    return pairs.get(name.removeprefix(f"{prefix}.")) if pairs and name.startswith(f"{prefix}.") else None
