"""What happens to entities: made, changed, merged, removed; and to their aliases. Over a draft; the API commits it."""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from node.entities import records
from node.entities.directory import NAME_RANDOM_CHARACTERS, point_at_alias
from node.entities.draft import Draft
from node.entities.records import (
    ENTITY_ALIASES_MAX,
    ENTITY_MERGED_MAX,
    GROUPS_OF_MEMBER_MAX,
    Alias,
    Entity,
    Group,
    Pointer,
)
from node.errors import InvalidRequest

MERGED_AT_ONCE_MAX = 64


def by_name(draft: Draft, name: str) -> Entity | None:
    """The entity with this name, however it is spelled."""
    found = draft.pointed(records.entity_name_path(name)) if name else ""
    return draft.entity(found) if found else None


def write(draft: Draft, entity: Entity | None, name: str, changes: dict[str, Any], *, new_id: str) -> Entity:
    """A new entity with the id `new_id`, or this one changed. Raises InvalidRequest if another one has the name."""
    holder = by_name(draft, name)
    if holder is not None and (entity is None or holder.id != entity.id):
        raise InvalidRequest("entity name is already in use")
    if entity is None:
        given = name or f"entity_{uuid.uuid4().hex[:NAME_RANDOM_CHARACTERS]}.root"
        written = Entity(new_id, given, draft.now_ns, draft.now_ns, **changes)
    else:
        given = name or entity.name
        if given.lower() != entity.name.lower():
            draft.delete(records.entity_name_path(entity.name))
        written = msgspec.structs.replace(entity, name=given, updated_ns=draft.now_ns, **changes)
    draft.put(records.entity_path(written.id), written)
    draft.put(records.entity_name_path(given), Pointer(written.id))
    return written


def remove(draft: Draft, entity: Entity) -> None:
    """With its aliases and memberships."""
    draft.delete(records.entity_path(entity.id))
    draft.delete(records.entity_name_path(entity.name))
    for alias in entity.aliases:
        forget_alias(draft, alias)
    for merged in entity.merged:
        draft.delete(records.merged_path(merged))
    for group_id in draft.children(records.groups_of_entity_path(entity.id)):
        replace_member(draft, group_id, entity.id, "")


def replace_member(draft: Draft, group_id: str, entity_id: str, by: str) -> None:
    """Take an entity out of a group, and another one in if `by` is not ""."""
    draft.delete(records.groups_of_entity_path(entity_id) + group_id)
    group = draft.group(group_id)
    if group is None:
        return
    members = [each for each in group.entities if each not in (entity_id, by)] + ([by] if by else [])
    put_group(draft, group, entities=members)
    if by:
        draft.put(records.groups_of_entity_path(by) + group_id, Pointer(group_id))


def put_group(draft: Draft, group: Group, **changes: Any) -> Group:
    """A group with what has changed, counted as a change."""
    written = msgspec.structs.replace(
        group, updated_ns=draft.now_ns, modify_index=group.modify_index + 1, **changes
    )
    draft.put(records.group_path(written.id), written)
    return written


# --- aliases ---


def alias_of(entity: Entity, alias_id: str) -> Alias | None:
    return next((alias for alias in entity.aliases if alias.id == alias_id), None)


def alias_by_id(draft: Draft, alias_id: str) -> tuple[Entity, Alias] | None:
    """An alias with the entity that has it."""
    entity = draft.entity(draft.pointed(records.alias_path(alias_id)))
    alias = alias_of(entity, alias_id) if entity else None
    return (entity, alias) if entity and alias else None


def alias_by_name(draft: Draft, accessor: str, name: str) -> tuple[Entity, Alias] | None:
    """The alias of this name at the mount with this accessor."""
    entity = draft.entity(draft.pointed(records.alias_name_path(accessor, name)))
    for alias in entity.aliases if entity else ():
        if alias.mount_accessor == accessor and alias.name.lower() == name.lower():
            assert entity is not None
            return entity, alias
    return None


def add_alias(draft: Draft, entity: Entity, alias: Alias) -> Entity:
    """Give an entity an alias. Raises InvalidRequest if it has one of this mount, or too many."""
    if any(each.mount_accessor == alias.mount_accessor and each.id != alias.id for each in entity.aliases):
        raise InvalidRequest("Alias already exists for requested entity and mount accessor")
    others = [each for each in entity.aliases if each.id != alias.id]
    if len(others) >= ENTITY_ALIASES_MAX:
        raise InvalidRequest(f"an entity has at most {ENTITY_ALIASES_MAX} aliases")
    written = msgspec.structs.replace(entity, aliases=[*others, alias])
    draft.put(records.entity_path(entity.id), written)
    point_at_alias(draft, alias, entity.id)
    return written


def drop_alias(draft: Draft, entity: Entity, alias: Alias) -> Entity:
    """Take an alias from an entity."""
    written = msgspec.structs.replace(
        entity, aliases=[each for each in entity.aliases if each.id != alias.id]
    )
    draft.put(records.entity_path(entity.id), written)
    forget_alias(draft, alias)
    return written


def forget_alias(draft: Draft, alias: Alias) -> None:
    """The index entries of an alias."""
    draft.delete(records.alias_path(alias.id))
    draft.delete(records.alias_name_path(alias.mount_accessor, alias.name))


# --- merging ---


def merge(draft: Draft, target: Entity, sources: Sequence[Entity], keep: Sequence[str]) -> Entity:
    """Make several entities one: aliases, memberships and earlier merges go over, policies and metadata do not.

    Of two aliases of one mount only one can stay: that which `keep` names. Raises InvalidRequest without such a
    decision. Tokens of the sources are tokens of the target from then on.
    """
    aliases = list(target.aliases)
    merged = list(target.merged)
    for source in sources:
        for alias in source.aliases:
            forget_alias(draft, alias)
            aliases.append(
                msgspec.structs.replace(alias, merged_from=[*(alias.merged_from or []), source.id])
            )
        merged += [source.id, *source.merged]
        draft.delete(records.entity_path(source.id))
        draft.delete(records.entity_name_path(source.name))
        for group_id in draft.children(records.groups_of_entity_path(source.id)):
            replace_member(draft, group_id, source.id, target.id)
    kept = _without_conflicts(aliases, keep)
    for alias in target.aliases:
        if alias not in kept:
            forget_alias(draft, alias)
    if len(merged) > ENTITY_MERGED_MAX or len(kept) > ENTITY_ALIASES_MAX:
        raise InvalidRequest(
            f"an entity has at most {ENTITY_ALIASES_MAX} aliases and {ENTITY_MERGED_MAX} merged ones"
        )
    written = msgspec.structs.replace(target, aliases=kept, merged=merged, updated_ns=draft.now_ns)
    draft.put(records.entity_path(target.id), written)
    for alias in kept:
        point_at_alias(draft, alias, target.id)
    for entity_id in merged:
        draft.put(records.merged_path(entity_id), Pointer(target.id))
    return written


def _without_conflicts(aliases: Sequence[Alias], keep: Sequence[str]) -> list[Alias]:
    by_mount: dict[str, list[Alias]] = {}
    for alias in aliases:
        by_mount.setdefault(alias.mount_accessor, []).append(alias)
    kept: list[Alias] = []
    for accessor, several in by_mount.items():
        chosen = several if len(several) == 1 else [each for each in several if each.id in keep]
        if len(chosen) != 1:
            raise InvalidRequest(
                "toEntity and at least one fromEntity have aliases with the same mount accessor, repeat the merge"
                " request specifying exactly one fromEntity, clashes: "
                f"mountAccessor: {accessor}, fromEntity ID: {', '.join(each.id for each in several)}"
            )
        kept += chosen
    return kept


# --- membership ---


def set_members(draft: Draft, group: Group, entities: list[str], groups: list[str]) -> None:
    """Change the index entries from the members that `group` has to these. Raises InvalidRequest for strangers."""
    for entity_id in entities:
        if entity_id not in group.entities and draft.entity(entity_id) is None:
            raise InvalidRequest(f'invalid entity ID "{entity_id}"')
    for group_id in groups:
        if draft.group(group_id) is None:
            raise InvalidRequest(f'invalid member group ID "{group_id}"')
        if reaches(draft, group_id, group.id):
            raise InvalidRequest(f'cyclic relationship detected for member group ID "{group_id}"')
    _point(draft, group.id, records.groups_of_entity_path, group.entities, entities)
    _point(draft, group.id, records.groups_of_group_path, group.groups, groups)


def reaches(draft: Draft, start: str, wanted: str) -> bool:
    """Whether a group is another one, or has it among its members at any depth."""
    seen, waiting = {start}, [start]
    while waiting:
        current = waiting.pop()
        if current == wanted:
            return True
        group = draft.group(current)
        for member in group.groups if group else ():
            if member not in seen:
                seen.add(member)
                waiting.append(member)
    return False


def _point(draft: Draft, group_id: str, folder: Any, old: Sequence[str], new: Sequence[str]) -> None:
    for member in set(old) - set(new):
        draft.delete(folder(member) + group_id)
    for member in set(new) - set(old):
        if len(draft.children(folder(member))) >= GROUPS_OF_MEMBER_MAX:
            raise InvalidRequest(f"{member} is in {GROUPS_OF_MEMBER_MAX} groups already")
        draft.put(folder(member) + group_id, Pointer(group_id))


def external_groups(draft: Draft, accessor: str, names: Sequence[str]) -> set[str]:
    """Ids of the external groups that have one of these names at an auth method."""
    pointed = (draft.pointed(records.group_alias_name_path(accessor, name)) for name in names)
    return {group_id for group_id in pointed if group_id}


def refresh_groups(draft: Draft, accessor: str, entity_id: str, names: Sequence[str]) -> None:
    """Make an entity a member of exactly those external groups of one auth method that are named.

    Names that no group has an alias for are passed over; groups of other methods stay as they are.
    """
    wanted = external_groups(draft, accessor, names)
    folder = records.groups_of_entity_path(entity_id)
    present = set(draft.children(folder))
    for group_id in sorted(present - wanted):
        group = draft.group(group_id)
        if group is not None and group.external and group.alias and group.alias.mount_accessor == accessor:
            replace_member(draft, group_id, entity_id, "")
    for group_id in sorted(wanted - present):
        group = draft.group(group_id)
        if group is None or len(group.entities) >= records.GROUP_ENTITIES_MAX:
            continue
        put_group(draft, group, entities=[*group.entities, entity_id])
        draft.put(folder + group_id, Pointer(group_id))
