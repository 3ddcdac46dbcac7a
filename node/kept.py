"""What operators set while nodes run: one value of a kind, kept encrypted in the store, in force on every node."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from node.errors import TooBusy
from node.store import CommandRejected, Store
from node.view import View
from storage.outcome import Reason

ATTEMPTS_MAX = 16  # of one change, while others change the same


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
        """Change what `data` names, whoever else changes something at the same time. Raises InvalidRequest, TooBusy;
        else as Store.submit().
        """
        view = View(store, self.view)
        for _ in range(ATTEMPTS_MAX):
            found, revision = self.current(store).changed(data), view.revision(self.path)
            try:
                await store.submit(view.put(self.path, msgspec.to_builtins(found), expect=revision))
                return
            except CommandRejected as error:
                if error.reason != Reason.REVISION_MISMATCH:
                    raise
        raise TooBusy("too many others change these settings at the same time")
