"""identity/entity and identity/lookup/entity: thin handlers over node/entities/.

Paths, shapes and texts are those of Vault's identity engine (https://developer.hashicorp.com/vault/api-docs/secret/identity).
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from node.api.vault.identity_parts import listed, listed_names, listings, mounts_by_accessor, one, query
from node.auth import fields
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, payload
from node.draft import drawn_id, retried
from node.entities import changes, records, said
from node.entities.directory import identity
from node.entities.draft import Draft
from node.entities.records import Entity
from node.errors import InvalidRequest, NotFound
from node.view import in_turns

DELETED_AT_ONCE_MAX = 64

_ENTITY = (
    Field("name", Kind.STRING, "Of the entity; drawn if it is not given."),
    Field("id", Kind.STRING, "Of the entity to change."),
    Field("metadata", Kind.STRING_MAP, "For people, and for templated policies."),
    Field("policies", Kind.STRINGS, "Policies that all its tokens have besides their own."),
    Field("disabled", Kind.BOOLEAN, "Whether its tokens and logins are refused."),
)
_LOOKUP = (
    Field("id", Kind.STRING, "Its id."),
    Field("name", Kind.STRING, "Its name."),
    Field("alias_id", Kind.STRING, "The id of an alias of it."),
    Field("alias_name", Kind.STRING, "The name of an alias of it, with alias_mount_accessor."),
    Field("alias_mount_accessor", Kind.STRING, "The mount of the alias."),
)

_MADE = (*named(Kind.STRING, "id name"), Field("aliases", Kind.OBJECTS, "Always null."))


def routes() -> list[Route]:
    """The table of this module."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    by_id = {read: _read, update: _write_by_id, delete: _delete}
    by_name = {read: _read_by_name, update: _write_by_name, delete: _delete_by_name}
    shown = {read: records.ENTITY, update: _MADE}
    return [
        Route(
            "identity/entity",
            {update: _write},
            summary="Creates or changes an entity.",
            fields=_ENTITY,
            answers={update: _MADE},
        ),
        *listings("identity/entity/id", _list, "Lists entities by id."),
        *listings("identity/entity/name", _list_names, "Lists entities by name."),
        one("identity/entity/id/{id}", by_id, "An entity, by its id.", *_ENTITY, answers=shown),
        one("identity/entity/name/{name...}", by_name, "An entity, by its name.", *_ENTITY, answers=shown),
        Route(
            "identity/entity/merge",
            {update: _merge},
            summary="Makes several entities one.",
            fields=(
                Field("from_entity_ids", Kind.STRINGS, "Those that go.", required=True),
                Field("to_entity_id", Kind.STRING, "The one that stays.", required=True),
                Field(
                    "conflicting_alias_ids_to_keep", Kind.STRINGS, "Which of two aliases of one mount stays."
                ),
            ),
        ),
        Route(
            "identity/entity/batch-delete",
            {update: _delete_many},
            summary="Removes several entities.",
            fields=(Field("entity_ids", Kind.STRINGS, "Their ids.", required=True),),
        ),
        Route(
            "identity/lookup/entity",
            {update: _look_up},
            local=True,
            summary="Finds an entity.",
            fields=_LOOKUP,
            answers={update: records.ENTITY},
        ),
    ]


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft, mounts = Draft(core.unsealed), mounts_by_accessor(core)
    found = _all(draft, listed(core, request, "entity/"))
    info = {entity.id: records.entity_key_info(entity, mounts) async for entity in found}
    return payload(key_info=info, keys=list(info))


async def _list_names(core: Core, request: Request, params: dict[str, str]) -> Response:
    found = _all(Draft(core.unsealed), listed_names(core, request, "entity-name/"))
    return payload(keys=[entity.name async for entity in found])


async def _all(draft: Draft, ids: Sequence[str]) -> AsyncIterator[Entity]:
    async for entity_id in in_turns(ids):
        entity = draft.entity(entity_id)
        if entity is not None:
            yield entity


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed)
    entity = draft.get(records.entity_path(params["id"]), Entity)
    if entity is None:
        raise NotFound
    return _described(core, draft, entity)


async def _read_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed)
    entity = changes.by_name(draft, params["name"])
    if entity is None:
        raise NotFound
    return _described(core, draft, entity)


def _described(core: Core, draft: Draft, entity: Entity) -> Response:
    found = identity(draft, entity)
    direct, inherited = ([group.id for group in groups] for groups in (found.direct, found.inherited))
    return Response(data=records.entity_data(entity, mounts_by_accessor(core), direct, inherited))


async def _write(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, fields.text(request.data.get("id"), "id"), said.name(request.data))


async def _write_by_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["id"], said.name(request.data))


async def _write_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    name, entity_id = said.name({"name": params["name"]}), fields.text(request.data.get("id"), "id")
    known = changes.by_name(Draft(core.unsealed), name) if entity_id else None
    if entity_id and (known is None or known.id != entity_id):  # what a policy allows is the name in the path
        raise InvalidRequest("the id is not that of the entity with this name")
    return await _change(core, request, "", name)


@retried
async def _change(core: Core, request: Request, entity_id: str, name: str) -> Response:
    """The entity with this id, else the one with this name, else a new one."""
    draft, data = Draft(core.unsealed, request), request.data
    known = draft.entity(entity_id) if entity_id else changes.by_name(draft, name)
    if known is None and entity_id:
        raise InvalidRequest("entity not found from id")
    new_id = drawn_id(request, "entity")
    if known is not None and known.id == new_id:  # this very request made it, and the answer was lost
        return payload(aliases=None, id=known.id, name=known.name)
    given: dict[str, Any] = {"metadata": said.metadata(data), "policies": said.policies(data)}
    if data.get("disabled") is not None:
        given["disabled"] = fields.boolean(data["disabled"], "disabled")
    given = {key: value for key, value in given.items() if value is not None}
    written = changes.write(draft, known, name, given, new_id=new_id)
    await draft.commit()
    if known is not None:
        return Response(NO_CONTENT)
    return payload(aliases=None, id=written.id, name=written.name)


@retried
async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    return await _remove(draft, draft.get(records.entity_path(params["id"]), Entity))


@retried
async def _delete_by_name(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, request)
    return await _remove(draft, changes.by_name(draft, params["name"]))


async def _remove(draft: Draft, entity: Entity | None) -> Response:
    """An entity that is not there is removed already. Its tokens are refused from now on."""
    if entity is not None:
        changes.remove(draft, entity)
        await draft.commit()
    return Response(NO_CONTENT)


@retried
async def _delete_many(core: Core, request: Request, params: dict[str, str]) -> Response:
    """All that are there, or none."""
    ids = said.ids(request.data, "entity_ids", DELETED_AT_ONCE_MAX)
    if not ids:
        raise InvalidRequest("missing entity ids to delete")
    draft = Draft(core.unsealed, request)
    for entity_id in ids:
        entity = draft.get(records.entity_path(entity_id), Entity)
        if entity is not None:
            changes.remove(draft, entity)
    await draft.commit()
    return Response(NO_CONTENT)


@retried
async def _merge(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft, data = Draft(core.unsealed, request), request.data
    sources = said.ids(data, "from_entity_ids", changes.MERGED_AT_ONCE_MAX)
    target_id = fields.text(data.get("to_entity_id"), "to_entity_id")
    if not sources:
        raise InvalidRequest("missing entity ids to merge from")
    if not target_id:
        raise InvalidRequest("missing entity id to merge to")
    target = draft.get(records.entity_path(target_id), Entity)
    if target is None:
        raise InvalidRequest("entity id to merge to is invalid")
    if target_id in sources:
        raise InvalidRequest("to_entity_id should not be present in from_entity_ids")
    found = [draft.get(records.entity_path(each), Entity) for each in sources]
    if None in found:
        raise InvalidRequest("entity id to merge from is invalid")
    keep = said.ids(data, "conflicting_alias_ids_to_keep", records.ENTITY_ALIASES_MAX) or []
    changes.merge(draft, target, [each for each in found if each is not None], keep)
    await draft.commit()
    return Response(NO_CONTENT)


async def _look_up(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Nothing found is no error: an empty answer."""
    draft = Draft(core.unsealed)
    by, value, accessor = query(request)
    entity: Entity | None
    if by == "id":
        entity = draft.entity(value)
    elif by == "name":
        entity = changes.by_name(draft, value)
    else:
        found = (
            changes.alias_by_id(draft, value)
            if by == "alias_id"
            else changes.alias_by_name(draft, accessor, value)
        )
        entity = found[0] if found else None
    return Response(NO_CONTENT) if entity is None else _described(core, draft, entity)
