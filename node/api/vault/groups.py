"""identity/group and identity/group-alias: thin handlers over node/entities/.

Paths, shapes and texts are those of Vault's identity engine (https://developer.hashicorp.com/vault/api-docs/secret/identity).
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from node.api.vault.identity_parts import (
    MADE_ALIAS,
    check_accessor,
    listed,
    listed_names,
    listings,
    mounts_by_accessor,
    one,
    query,
)
from node.auth import fields
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Handler, Route, payload
from node.draft import drawn_id, retried
from node.entities import changes, records, said
from node.entities.directory import NAME_RANDOM_CHARACTERS
from node.entities.draft import Draft
from node.entities.records import Alias, Group, Pointer
from node.errors import InvalidRequest, NotFound
from node.view import in_turns

_GROUP = (
    Field("name", Kind.STRING, "Of the group; drawn if it is not given."),
    Field("id", Kind.STRING, "Of the group to change."),
    Field("type", Kind.STRING, "internal or external."),
    Field("metadata", Kind.STRING_MAP, "For people, and for templated policies."),
    Field("policies", Kind.STRINGS, "Policies that all tokens of its members have besides their own."),
    Field("member_entity_ids", Kind.STRINGS, "The entities in it."),
    Field("member_group_ids", Kind.STRINGS, "The groups whose members are members of it."),
)
_ALIAS = (
    Field("name", Kind.STRING, "What the auth method calls the group."),
    Field("id", Kind.STRING, "Of the alias to change."),
    Field("mount_accessor", Kind.STRING, "Of the auth method's mount."),
    Field("canonical_id", Kind.STRING, "Of the group; a new one if it is not given."),
)
_LOOKUP = (
    Field("id", Kind.STRING, "Its id."),
    Field("name", Kind.STRING, "Its name."),
    Field("alias_id", Kind.STRING, "The id of its alias."),
    Field("alias_name", Kind.STRING, "The name of its alias, with alias_mount_accessor."),
    Field("alias_mount_accessor", Kind.STRING, "The mount of the alias."),
)

_MADE = named(Kind.STRING, "id name")


def routes() -> list[Route]:
    """The table of this module."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    by_id: dict[Operation, Handler] = {read: _read, update: _write_by_id, delete: _delete}
    by_name: dict[Operation, Handler] = {
        read: _read_by_name,
        update: _write_by_name,
        delete: _delete_by_name,
    }
    alias: dict[Operation, Handler] = {read: _read_alias, update: _write_alias_by_id, delete: _delete_alias}
    shown, shown_alias = {read: records.GROUP, update: _MADE}, {read: records.ALIAS, update: MADE_ALIAS}
    return [
        Route(
            "identity/group",
            {update: _write},
            summary="Creates or changes a group.",
            fields=_GROUP,
            answers={update: _MADE},
        ),
        *listings("identity/group/id", _list, "Lists groups by id."),
        *listings("identity/group/name", _list_names, "Lists groups by name."),
        one("identity/group/id/{id}", by_id, "A group, by its id.", *_GROUP, answers=shown),
        one("identity/group/name/{name...}", by_name, "A group, by its name.", *_GROUP, answers=shown),
        Route(
            "identity/group-alias",
            {update: _write_alias},
            summary="Creates or changes an alias.",
            fields=_ALIAS,
            answers={update: MADE_ALIAS},
        ),
        *listings("identity/group-alias/id", _list_aliases, "Lists aliases by id."),
        one(
            "identity/group-alias/id/{id}",
            alias,
            "A group's alias, by its id.",
            *_ALIAS,
            answers=shown_alias,
        ),
        Route(
            "identity/lookup/group",
            {update: _look_up},
            local=True,
            summary="Finds a group.",
            fields=_LOOKUP,
            answers={update: records.GROUP},
        ),
    ]


# --- groups ---


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed)
    info = {
        group.id: {
            "name": group.name,
            "num_member_entities": len(group.entities),
            "num_parent_groups": len(_parents(draft, group)),
        }
        async for group in _all(draft, listed(core, request, "group/"))
    }
    return payload(key_info=info, keys=list(info))


async def _list_names(core: Core, request: Request, params: dict[str, str]) -> Response:
    found = _all(Draft(core.unsealed), listed_names(core, request, "group-name/"))
    return payload(keys=[group.name async for group in found])


async def _all(draft: Draft, ids: Sequence[str]) -> AsyncIterator[Group]:
    async for group_id in in_turns(ids):
        group = draft.group(group_id)
        if group is not None:
            yield group


def _parents(draft: Draft, group: Group) -> list[str]:
    return draft.children(records.groups_of_group_path(group.id))


def _by_name(draft: Draft, name: str) -> Group | None:
    found = draft.pointed(records.group_name_path(name)) if name else ""
    return draft.group(found) if found else None


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed)
    return _described(core, draft, draft.group(params["id"]))


async def _read_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed)
    return _described(core, draft, _by_name(draft, params["name"]))


def _described(core: Core, draft: Draft, group: Group | None) -> Response:
    if group is None:
        raise NotFound
    return Response(data=records.group_data(group, mounts_by_accessor(core), _parents(draft, group)))


async def _write(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, fields.text(request.data.get("id"), "id"), said.name(request.data))


async def _write_by_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["id"], said.name(request.data))


async def _write_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    name, group_id = said.name({"name": params["name"]}), fields.text(request.data.get("id"), "id")
    known = _by_name(Draft(core.unsealed), name) if group_id else None
    if group_id and (known is None or known.id != group_id):  # what a policy allows is the name in the path
        raise InvalidRequest("the id is not that of the group with this name")
    return await _change(core, request, "", name)


@retried
async def _change(core: Core, request: Request, group_id: str, name: str) -> Response:
    """The group with this id, else the one with this name, else a new one."""
    draft, data = Draft(core.unsealed, request), request.data
    known = draft.group(group_id) if group_id else _by_name(draft, name)
    if known is None and group_id:
        raise InvalidRequest("invalid group ID")
    holder = _by_name(draft, name)
    if holder is not None and known is not None and holder.id != known.id:
        raise InvalidRequest("group name is already in use")
    new_id = drawn_id(request, "group")
    if known is not None and known.id == new_id:  # this very request made it, and the answer was lost
        return payload(id=known.id, name=known.name)
    group = known or _new(draft, new_id, name, external=_is_external(data) or False)
    external = _is_external(data)
    if external is not None and external != group.external:
        raise InvalidRequest("group type cannot be changed")
    given = _given(group, data)
    changes.set_members(
        draft, group, given.get("entities", group.entities), given.get("groups", group.groups)
    )
    if name and name.lower() != group.name.lower():
        draft.delete(records.group_name_path(group.name))
    written = changes.put_group(draft, group, name=name or group.name, **given)
    draft.put(records.group_name_path(written.name), Pointer(written.id))
    await draft.commit()
    return Response(NO_CONTENT) if known is not None else payload(id=written.id, name=written.name)


def _new(draft: Draft, new_id: str, name: str, *, external: bool) -> Group:
    name = name or f"group_{uuid.uuid4().hex[:NAME_RANDOM_CHARACTERS]}.root"
    return Group(new_id, name, draft.now_ns, draft.now_ns, external=external, modify_index=0)


def _is_external(data: dict[str, Any]) -> bool | None:
    """None if nothing is said. Raises InvalidRequest."""
    kind = fields.text(data.get("type"), "type")
    if kind not in ("", "internal", "external"):
        raise InvalidRequest(f'invalid group type "{kind}"')
    return None if not kind else kind == "external"


def _given(group: Group, data: dict[str, Any]) -> dict[str, Any]:
    entities = said.ids(data, "member_entity_ids", records.GROUP_ENTITIES_MAX)
    groups = said.ids(data, "member_group_ids", records.GROUP_GROUPS_MAX)
    if group.external and entities:
        raise InvalidRequest("member entities can't be set manually for external groups")
    if group.external and groups:
        raise InvalidRequest("member groups can't be set for external groups")
    given = {
        "entities": entities,
        "groups": groups,
        "metadata": said.metadata(data),
        "policies": said.policies(data),
    }
    return {key: value for key, value in given.items() if value is not None}


@retried
async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    return await _remove(draft, draft.group(params["id"]))


@retried
async def _delete_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    return await _remove(draft, _by_name(draft, params["name"]))


async def _remove(draft: Draft, group: Group | None) -> Response:
    """A group that is not there is removed already."""
    if group is None:
        return Response(NO_CONTENT)
    changes.set_members(draft, group, [], [])
    for parent_id in _parents(draft, group):
        draft.delete(records.groups_of_group_path(group.id) + parent_id)
        parent = draft.group(parent_id)
        if parent is not None:
            changes.put_group(draft, parent, groups=[each for each in parent.groups if each != group.id])
    draft.delete(records.group_path(group.id))
    draft.delete(records.group_name_path(group.name))
    if group.alias is not None:
        _forget_alias(draft, group.alias)
    await draft.commit()
    return Response(NO_CONTENT)


async def _look_up(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Nothing found is no error: an empty answer."""
    draft = Draft(core.unsealed)
    by, value, accessor = query(request)
    if by == "id":
        group = draft.group(value)
    elif by == "name":
        group = _by_name(draft, value)
    elif by == "alias_id":
        group = draft.group(draft.pointed(records.group_alias_path(value)))
    else:
        group = draft.group(draft.pointed(records.group_alias_name_path(accessor, value)))
    return Response(NO_CONTENT) if group is None else _described(core, draft, group)


# --- aliases ---


async def _list_aliases(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft, mounts = Draft(core.unsealed), mounts_by_accessor(core)
    info = {}
    async for alias_id in in_turns(listed(core, request, "group-alias/")):
        group = _with_alias(draft, alias_id)
        if group is not None and group.alias is not None:
            info[alias_id] = records.alias_key_info(group.alias, group.id, mounts)
    return payload(key_info=info, keys=list(info))


def _with_alias(draft: Draft, alias_id: str) -> Group | None:
    group = draft.group(draft.pointed(records.group_alias_path(alias_id)))
    return group if group is not None and group.alias is not None and group.alias.id == alias_id else None


async def _read_alias(core: Core, request: Request, params: dict[str, str]) -> Response:
    group = _with_alias(Draft(core.unsealed), params["id"])
    if group is None or group.alias is None:
        raise NotFound
    shown = records.alias_data(group.alias, group.id, mounts_by_accessor(core))
    return Response(data=dict(sorted((shown | {"namespace_id": "root"}).items())))


async def _write_alias(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change_alias(core, request, fields.text(request.data.get("id"), "id"))


async def _write_alias_by_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change_alias(core, request, params["id"])


@retried
async def _change_alias(core: Core, request: Request, alias_id: str) -> Response:
    """The alias with this id, or a new one for a group that has none, or for a new group."""
    draft, data = Draft(core.unsealed, request), request.data
    holder = _with_alias(draft, alias_id) if alias_id else None
    if alias_id and holder is None:
        raise InvalidRequest("invalid group alias ID")
    known = holder.alias if holder else None
    name = said.name(data) or (known.name if known else "")
    accessor = fields.text(data.get("mount_accessor"), "mount_accessor") or (
        known.mount_accessor if known else ""
    )
    if not name:
        raise InvalidRequest("missing alias name")
    if not accessor:
        raise InvalidRequest("missing mount_accessor")
    check_accessor(core, accessor)
    new_id = drawn_id(request, "group alias")
    earlier = None if known else _with_alias(draft, new_id)
    if earlier is not None:  # this very request made it, and the answer was lost
        return payload(canonical_id=earlier.id, id=new_id)
    group = _owner(request, draft, data, holder)
    taken = draft.pointed(records.group_alias_name_path(accessor, name))
    if taken and taken not in (group.id, holder.id if holder else ""):
        raise InvalidRequest("combination of mount and group alias name is already in use")
    if known is not None and holder is not None:
        _forget_alias(draft, known)
        if holder.id != group.id:
            changes.put_group(draft, holder, alias=None)
    if group.alias is not None and (known is None or group.alias.id != known.id):
        _forget_alias(draft, group.alias)
    made_ns = known.created_ns if known else draft.now_ns
    alias = Alias(known.id if known else new_id, name, accessor, made_ns, draft.now_ns)
    changes.put_group(draft, group, alias=alias)
    draft.put(records.group_alias_path(alias.id), Pointer(group.id))
    draft.put(records.group_alias_name_path(accessor, name), Pointer(group.id))
    await draft.commit()
    return payload(canonical_id=group.id, id=alias.id)


def _owner(request: Request, draft: Draft, data: dict[str, Any], holder: Group | None) -> Group:
    """The group that an alias shall be of. Raises InvalidRequest."""
    group_id = fields.text(data.get("canonical_id"), "canonical_id")
    if not group_id:
        if holder is not None:
            return holder
        group = _new(draft, drawn_id(request, "group"), "", external=True)
        draft.put(records.group_name_path(group.name), Pointer(group.id))
        return group
    found = draft.group(group_id)
    if found is None:
        raise InvalidRequest("invalid group ID given in 'canonical_id'")
    if not found.external:
        raise InvalidRequest("alias can't be set on an internal group")
    return found


@retried
async def _delete_alias(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    group = _with_alias(draft, params["id"])
    if group is not None and group.alias is not None:
        _forget_alias(draft, group.alias)
        changes.put_group(draft, group, alias=None)
        await draft.commit()
    return Response(NO_CONTENT)


def _forget_alias(draft: Draft, alias: Alias) -> None:
    draft.delete(records.group_alias_path(alias.id))
    draft.delete(records.group_alias_name_path(alias.mount_accessor, alias.name))
