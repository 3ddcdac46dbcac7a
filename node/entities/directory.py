"""What a token's entity adds to it, and which entity a login belongs to.

Every request of a token with an entity asks, so the answers are kept until any entity or group changes.
"""

import uuid
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from node.entities import records
from node.entities.draft import Draft
from node.entities.records import Alias, Entity, Group, Pointer
from node.store import Store
from storage.rows import Mount

KNOWN_ENTITIES_MAX = 4096
GROUPS_OF_ENTITY_MAX = 1024  # direct and inherited; what is beyond is not counted as membership
NAME_RANDOM_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """An entity with the groups that it is in."""

    entity: Entity
    direct: tuple[Group, ...] = ()
    inherited: tuple[Group, ...] = ()
    policies: tuple[str, ...] = ()  # its own and its groups', sorted

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.direct + self.inherited


class Directory:
    """Entities by id, with what follows from them."""

    def __init__(self) -> None:
        self._store: weakref.ref[Store] | None = None  # a cache keeps no sealed store alive
        self._generation = -1
        self._known: OrderedDict[str, Identity | None] = OrderedDict()

    def find(self, store: Store, entity_id: str) -> Identity | None:
        """The identity behind a token's entity_id; None if it is gone."""
        generation = store.generation("identity")
        if generation != self._generation or self._store is None or self._store() is not store:
            self._known.clear()
            self._store, self._generation = weakref.ref(store), generation
        if entity_id in self._known:
            return self._known[entity_id]
        draft = Draft(store)
        entity = draft.entity(entity_id)
        found = self._known[entity_id] = None if entity is None else identity(draft, entity)
        if len(self._known) > KNOWN_ENTITIES_MAX:
            self._known.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget everything: the node is sealed."""
        self._store = None
        self._known.clear()


def identity(draft: Draft, entity: Entity) -> Identity:
    """An entity with its groups, and the policies of all of them."""
    direct = _groups(draft, draft.children(records.groups_of_entity_path(entity.id)))
    seen = {group.id for group in direct}
    inherited: list[Group] = []
    layer = list(direct)
    while layer and len(seen) < GROUPS_OF_ENTITY_MAX:
        ids = sorted(
            {
                parent
                for group in layer
                for parent in draft.children(records.groups_of_group_path(group.id))
                if parent not in seen
            }
        )
        layer = _groups(draft, ids[: GROUPS_OF_ENTITY_MAX - len(seen)])
        seen.update(group.id for group in layer)
        inherited += layer
    policies = {*entity.policies, *(name for group in (*direct, *inherited) for name in group.policies)}
    inherited.sort(key=lambda group: group.id)
    return Identity(entity, tuple(direct), tuple(inherited), tuple(sorted(policies)))


def _groups(draft: Draft, ids: Sequence[str]) -> list[Group]:
    found = (draft.group(group_id) for group_id in ids[:GROUPS_OF_ENTITY_MAX])
    return [group for group in found if group is not None]


def known(draft: Draft, mount: Mount, alias_name: str) -> Entity | None:
    """The entity that a login under this name of an auth method belongs to, if there is one."""
    return draft.entity(draft.pointed(records.alias_name_path(mount.accessor, alias_name)))


def login(draft: Draft, mount: Mount, alias_name: str, metadata: dict[str, str] | None = None) -> Entity:
    """The entity that a login under this name of an auth method belongs to; a new one if there is none yet.

    What is new, or new in the alias's metadata, goes into the draft.
    """
    entity = known(draft, mount, alias_name)
    if entity is None:
        return create_with_alias(draft, mount.accessor, alias_name, metadata)
    aliases = [
        msgspec.structs.replace(alias, metadata=metadata, updated_ns=draft.now_ns)
        if alias.mount_accessor == mount.accessor
        and alias.name.lower() == alias_name.lower()
        and alias.metadata != metadata
        else alias
        for alias in entity.aliases
    ]
    if aliases != entity.aliases:
        entity = msgspec.structs.replace(entity, aliases=aliases)
        draft.put(records.entity_path(entity.id), entity)
    return entity


def create_with_alias(
    draft: Draft,
    accessor: str,
    alias_name: str,
    metadata: dict[str, str] | None = None,
    custom_metadata: dict[str, str] | None = None,
    alias_id: str = "",
) -> Entity:
    """A new entity, named at random, with one alias."""
    alias = Alias(
        id=alias_id or str(uuid.uuid4()),
        name=alias_name,
        mount_accessor=accessor,
        created_ns=draft.now_ns,
        updated_ns=draft.now_ns,
        metadata=metadata,
        custom_metadata=custom_metadata,
    )
    entity = Entity(
        id=str(uuid.uuid4()),
        name=f"entity_{uuid.uuid4().hex[:NAME_RANDOM_CHARACTERS]}.root",
        created_ns=draft.now_ns,
        updated_ns=draft.now_ns,
        aliases=[alias],
    )
    draft.put(records.entity_path(entity.id), entity)
    draft.put(records.entity_name_path(entity.name), Pointer(entity.id))
    point_at_alias(draft, alias, entity.id)
    return entity


def point_at_alias(draft: Draft, alias: Alias, entity_id: str) -> None:
    """The index entries of an alias."""
    draft.put(records.alias_path(alias.id), Pointer(entity_id))
    draft.put(records.alias_name_path(alias.mount_accessor, alias.name), Pointer(entity_id))
