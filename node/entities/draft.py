"""A change of entities and groups."""

from node import draft
from node.core.request import Request
from node.entities import records
from node.entities.records import Entity, Group, Pointer
from node.store import Store
from storage.entries import IDENTITY


class Draft(draft.Draft):
    """A draft of the view in which entities and groups are."""

    def __init__(self, store: Store, request: Request | None = None) -> None:
        super().__init__(store, IDENTITY, request)

    def pointed(self, path: str) -> str:
        """The id that an index entry holds, or ""."""
        pointer = self.get(path, Pointer)
        return pointer.id if pointer else ""

    def entity(self, entity_id: str) -> Entity | None:
        """By its id, or by that of an entity that became it."""
        found = self.get(records.entity_path(entity_id), Entity)
        if found is None and (survivor := self.pointed(records.merged_path(entity_id))):
            found = self.get(records.entity_path(survivor), Entity)
        return found

    def group(self, group_id: str) -> Group | None:
        return self.get(records.group_path(group_id), Group)
