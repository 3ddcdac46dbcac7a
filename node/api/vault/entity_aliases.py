"""identity/entity-alias: by what names auth methods know an entity. Shapes and texts as in entities.py."""

from typing import Any

import msgspec

from node.api.vault.identity_parts import (
    MADE_ALIAS,
    check_accessor,
    listed,
    listings,
    mounts_by_accessor,
    one,
)
from node.auth import fields
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, payload
from node.draft import drawn_id, retried
from node.entities import changes, records, said
from node.entities.directory import create_with_alias
from node.entities.draft import Draft
from node.entities.records import Alias, Entity
from node.errors import InvalidRequest, NotFound
from node.view import in_turns

_FIELDS = (
    Field("name", Kind.STRING, "What the auth method calls it."),
    Field("id", Kind.STRING, "Of the alias to change."),
    Field("canonical_id", Kind.STRING, "Of the entity; a new one if it is not given."),
    Field("mount_accessor", Kind.STRING, "Of the auth method's mount."),
    Field("custom_metadata", Kind.STRING_MAP, "For people, and for templated policies."),
)


def routes() -> list[Route]:
    """The table of this module."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    by_id = {read: _read, update: _write_by_id, delete: _delete}
    shown = {read: records.ALIAS, update: MADE_ALIAS}
    table = []
    names = ("entity-alias", "alias")  # the second is the name that it had before
    for name, twin in zip(names, reversed(names), strict=True):
        at, other = f"identity/{name}", f"identity/{twin}"
        table += [
            Route(
                at,
                {update: _write},
                twin=other,
                summary="Creates or changes an alias.",
                fields=_FIELDS,
                answers={update: MADE_ALIAS},
            ),
            *listings(f"{at}/id", _list, "Lists aliases by id.", twin=f"{other}/id"),
            one(
                f"{at}/id/{{id}}",
                by_id,
                "An alias of an entity.",
                *_FIELDS,
                twin=f"{other}/id/{{id}}",
                answers=shown,
            ),
        ]
    return table


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft, mounts = Draft(core.unsealed), mounts_by_accessor(core)
    info = {}
    async for alias_id in in_turns(listed(core, request, "alias/")):
        found = changes.alias_by_id(draft, alias_id)
        if found is not None:
            info[alias_id] = records.alias_key_info(found[1], found[0].id, mounts)
    return payload(key_info=info, keys=list(info))


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    found = changes.alias_by_id(Draft(core.unsealed), params["id"])
    if found is None:
        raise NotFound
    shown = records.alias_data(found[1], found[0].id, mounts_by_accessor(core))
    return Response(data=dict(sorted((shown | {"namespace_id": "root"}).items())))


async def _write(core: Core, request: Request, params: dict[str, str]) -> Response:
    alias_id = fields.text(request.data.get("id"), "id")
    return await (_change(core, request, alias_id) if alias_id else _place(core, request))


async def _write_by_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["id"])


@retried
async def _place(core: Core, request: Request) -> Response:
    """An alias by its name: made, or given to another entity, or its metadata changed."""
    draft, data = Draft(core.unsealed, request), request.data
    name, accessor = said.name(data), fields.text(data.get("mount_accessor"), "mount_accessor")
    if not name or not accessor:
        raise InvalidRequest("'id' or 'mount_accessor' and 'name' must be provided")
    check_accessor(core, accessor)
    owner, custom = _owner(draft, data), said.metadata(data, "custom_metadata")
    found, new_id = changes.alias_by_name(draft, accessor, name), drawn_id(request, "alias")
    if found is not None and found[1].id == new_id:  # this very request made it, and the answer was lost
        return payload(canonical_id=found[0].id, id=new_id)
    if found is not None:
        return await _settle(draft, *found, owner, {"custom_metadata": custom} if custom is not None else {})
    if owner is None:
        entity = create_with_alias(draft, accessor, name, custom_metadata=custom, alias_id=new_id)
        alias = entity.aliases[0]
    else:
        alias = Alias(new_id, name, accessor, draft.now_ns, draft.now_ns, custom_metadata=custom)
        entity = changes.add_alias(draft, owner, alias)
    await draft.commit()
    return payload(canonical_id=entity.id, id=alias.id)


@retried
async def _change(core: Core, request: Request, alias_id: str) -> Response:
    draft, data = Draft(core.unsealed, request), request.data
    found = changes.alias_by_id(draft, alias_id)
    if found is None:
        raise InvalidRequest("invalid alias ID provided")
    given: dict[str, Any] = {}
    if name := said.name(data):
        given["name"] = name
    if accessor := fields.text(data.get("mount_accessor"), "mount_accessor"):
        check_accessor(core, accessor)
        given["mount_accessor"] = accessor
    custom = said.metadata(data, "custom_metadata")
    if custom is not None:
        given["custom_metadata"] = custom
    entity, alias = found
    taken = changes.alias_by_name(draft, accessor or alias.mount_accessor, name or alias.name)
    if taken is not None and taken[1].id != alias.id:
        raise InvalidRequest("alias with combination of mount accessor and name already exists")
    return await _settle(draft, entity, alias, _owner(draft, data), given)


async def _settle(
    draft: Draft, entity: Entity, alias: Alias, owner: Entity | None, given: dict[str, Any]
) -> Response:
    """Change an alias and give it to `owner`, if that is somebody else."""
    changed = msgspec.structs.replace(alias, **given)
    owner = owner or entity
    if changed == alias and owner.id == entity.id:
        return Response(NO_CONTENT)
    left = changes.drop_alias(draft, entity, alias)
    changed = msgspec.structs.replace(changed, updated_ns=draft.now_ns)
    changes.add_alias(draft, left if owner.id == entity.id else owner, changed)
    await draft.commit()
    return payload(canonical_id=owner.id, id=alias.id)


def _owner(draft: Draft, data: dict[str, Any]) -> Entity | None:
    """The entity that a request names. Raises InvalidRequest if there is no such."""
    name = "canonical_id" if data.get("canonical_id") else "entity_id"
    entity_id = fields.text(data.get(name), name)
    owner = draft.entity(entity_id) if entity_id else None
    if entity_id and owner is None:
        raise InvalidRequest("invalid canonical ID")
    return owner


@retried
async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    found = changes.alias_by_id(draft, params["id"])
    if found is not None:
        changes.drop_alias(draft, *found)
        await draft.commit()
    return Response(NO_CONTENT)
