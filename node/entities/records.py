"""Entities and groups as they are kept: who a caller is, whichever way he logged in.

Everything lies in one view, found by id, and through small index entries by name, by alias and by membership. The
index entries hold only ids; names in their paths are percent-encoded and lower case, because names differ by
more than their case.
"""

from typing import Any
from urllib.parse import quote

import msgspec

from node.auth.fields import rfc3339
from node.core.fields import Field, Kind, named
from storage.rows import Mount

ENTITY_ALIASES_MAX = 256
ENTITY_MERGED_MAX = 1024
GROUP_ENTITIES_MAX = 1024
GROUP_GROUPS_MAX = 256
GROUPS_OF_MEMBER_MAX = 1024
POLICIES_MAX = 256
NAME_CHARACTERS_MAX = 512
METADATA_PAIRS_MAX = 64
METADATA_KEY_CHARACTERS_MAX = 128
METADATA_VALUE_CHARACTERS_MAX = 512


class Alias(msgspec.Struct, frozen=True):
    """What somebody is called by one auth method."""

    id: str
    name: str
    mount_accessor: str
    created_ns: int
    updated_ns: int
    metadata: dict[str, str] | None = None  # what the auth method says of it
    custom_metadata: dict[str, str] | None = None  # what operators say of it
    merged_from: list[str] | None = None


class Entity(msgspec.Struct, frozen=True):
    id: str
    name: str
    created_ns: int
    updated_ns: int
    policies: list[str] = []
    metadata: dict[str, str] | None = None
    disabled: bool = False
    aliases: list[Alias] = []
    merged: list[str] = []  # ids of entities that became this one


class Group(msgspec.Struct, frozen=True):
    """An internal group has members that are set; an external one gets them from an auth method, by its alias."""

    id: str
    name: str
    created_ns: int
    updated_ns: int
    external: bool = False
    policies: list[str] = []
    metadata: dict[str, str] | None = None
    entities: list[str] = []
    groups: list[str] = []  # internal: whose members are members of this one too
    alias: Alias | None = None
    modify_index: int = 1


class Pointer(msgspec.Struct, frozen=True):
    """An index entry."""

    id: str


# --- where ---


def entity_path(entity_id: str) -> str:
    return f"entity/{_segment(entity_id)}"


def group_path(group_id: str) -> str:
    return f"group/{_segment(group_id)}"


def entity_name_path(name: str) -> str:
    return f"entity-name/{_segment(name.lower())}"


def group_name_path(name: str) -> str:
    return f"group-name/{_segment(name.lower())}"


def alias_path(alias_id: str) -> str:
    """Points to the entity that has the alias."""
    return f"alias/{_segment(alias_id)}"


def group_alias_path(alias_id: str) -> str:
    """Points to the group that has the alias."""
    return f"group-alias/{_segment(alias_id)}"


def alias_name_path(accessor: str, name: str) -> str:
    return f"alias-name/{_segment(accessor)}/{_segment(name.lower())}"


def group_alias_name_path(accessor: str, name: str) -> str:
    return f"group-alias-name/{_segment(accessor)}/{_segment(name.lower())}"


def merged_path(entity_id: str) -> str:
    """Points to the entity that this one became."""
    return f"merged/{_segment(entity_id)}"


def groups_of_entity_path(entity_id: str) -> str:
    """A folder of the groups that it is a direct member of."""
    return f"entity-groups/{_segment(entity_id)}/"


def groups_of_group_path(group_id: str) -> str:
    """A folder of the groups that this one is a member of."""
    return f"group-groups/{_segment(group_id)}/"


def name_segment(name: str) -> str:
    """A name as it stands in the index; "" for none."""
    return _segment(name.lower()) if name else ""


def _segment(text: str) -> str:
    return quote(text, safe="") or "%"


# --- what is shown ---

ALIAS = (
    *named(Kind.STRING, "id name canonical_id mount_accessor mount_path mount_type namespace_id"),
    *named(Kind.STRING, "creation_time last_update_time"),
    *named(Kind.STRING_MAP, "metadata custom_metadata"),
    Field("local", Kind.BOOLEAN, "Always false."),
    Field("merged_from_canonical_ids", Kind.STRINGS, "The entities that had it before."),
)
ENTITY = (
    *named(Kind.STRING, "id name namespace_id creation_time last_update_time"),
    *named(Kind.STRINGS, "policies merged_entity_ids"),
    *named(Kind.STRINGS, "direct_group_ids inherited_group_ids group_ids"),
    Field("metadata", Kind.STRING_MAP),
    Field("disabled", Kind.BOOLEAN, "Whether its tokens and logins are refused."),
    Field("aliases", Kind.OBJECTS, "What auth methods call it.", members=ALIAS),
)
GROUP = (
    *named(Kind.STRING, "id name type namespace_id creation_time last_update_time"),
    *named(Kind.STRINGS, "policies member_entity_ids member_group_ids parent_group_ids"),
    Field("metadata", Kind.STRING_MAP),
    Field("modify_index", Kind.INTEGER, "How often it was changed."),
    Field("alias", Kind.OBJECT, "What an auth method calls it.", members=ALIAS),
)


def alias_data(alias: Alias, canonical_id: str, mounts: dict[str, Mount]) -> dict[str, Any]:
    """An alias inside its entity or group."""
    mount = mounts.get(alias.mount_accessor)
    return {
        "canonical_id": canonical_id,
        "creation_time": rfc3339(alias.created_ns),
        "custom_metadata": alias.custom_metadata,
        "id": alias.id,
        "last_update_time": rfc3339(alias.updated_ns),
        "local": False,
        "merged_from_canonical_ids": alias.merged_from,
        "metadata": alias.metadata,
        "mount_accessor": alias.mount_accessor,
        "mount_path": mount.path if mount else "",
        "mount_type": mount.kind if mount else "",
        "name": alias.name,
    }


def alias_key_info(alias: Alias, canonical_id: str, mounts: dict[str, Mount]) -> dict[str, Any]:
    """An alias in a list of them."""
    shown = alias_data(alias, canonical_id, mounts)
    kept = ("canonical_id", "custom_metadata", "local", "metadata", "mount_accessor", "mount_path")
    return {name: shown[name] for name in (*kept, "mount_type", "name")}


def entity_data(
    entity: Entity, mounts: dict[str, Mount], direct: list[str], inherited: list[str]
) -> dict[str, Any]:
    return {
        "aliases": [alias_data(alias, entity.id, mounts) for alias in entity.aliases],
        "creation_time": rfc3339(entity.created_ns),
        "direct_group_ids": direct,
        "disabled": entity.disabled,
        "group_ids": sorted({*direct, *inherited}),
        "id": entity.id,
        "inherited_group_ids": inherited,
        "last_update_time": rfc3339(entity.updated_ns),
        "merged_entity_ids": entity.merged or None,
        "metadata": entity.metadata,
        "name": entity.name,
        "namespace_id": "root",
        "policies": entity.policies,
    }


def entity_key_info(entity: Entity, mounts: dict[str, Mount]) -> dict[str, Any]:
    """An entity in a list of them."""
    info: dict[str, Any] = {"name": entity.name}
    shown = [alias_data(alias, entity.id, mounts) for alias in entity.aliases]
    if shown:
        kept = ("id", "mount_accessor", "mount_path", "mount_type", "name")
        info["aliases"] = [{name: alias[name] for name in kept} for alias in shown]
    return info


def _within_group(group: Group, mounts: dict[str, Mount]) -> dict[str, Any]:
    shown = alias_data(group.alias, group.id, mounts) if group.alias else {}
    return {name: value for name, value in shown.items() if name not in ("custom_metadata", "local")}


def group_data(group: Group, mounts: dict[str, Mount], parents: list[str]) -> dict[str, Any]:
    """As it is shown; a list without members is null."""
    return {
        "alias": _within_group(group, mounts),
        "creation_time": rfc3339(group.created_ns),
        "id": group.id,
        "last_update_time": rfc3339(group.updated_ns),
        "member_entity_ids": group.entities or None,
        "member_group_ids": group.groups or None,
        "metadata": group.metadata,
        "modify_index": group.modify_index,
        "name": group.name,
        "namespace_id": "root",
        "parent_group_ids": parents or None,
        "policies": group.policies or None,
        "type": "external" if group.external else "internal",
    }
