"""What operators set while nodes run: one value of a kind, kept encrypted in the store, in force on every node."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from node.store import Store
from node.view import View


class Changeable(Protocol):
    """Settings that check what a request says."""

    def changed(self: "S", data: dict[str, Any]) -> "S":
        """With what `data` names; the rest stays. Raises InvalidRequest."""


S = TypeVar("S", bound=Changeable)


@dataclass(frozen=True, slots=True)
class Kept(Generic[S]):
    """Where settings of a kind lie; while nothing was set, `defaults` are in force."""

    view: str
    path: str
    defaults: S

    def current(self, store: Store) -> S:
        """What is in force, as this node knows it."""
        item = View(store, self.view).get(self.path)
        return self.defaults if item is None else msgspec.convert(item.value, type(self.defaults))

    async def change(self, store: Store, data: dict[str, Any]) -> None:
        """Change what `data` names. Raises InvalidRequest; else as Store.submit()."""
        view = View(store, self.view)
        found = self.current(store).changed(data)
        await store.submit(view.put(self.path, msgspec.to_builtins(found), expect=view.revision(self.path)))
