"""Who may hear what: subscribers grouped by rights and wishes, and their rights looked up again when they may differ.

`rights` counts what may have changed everybody's rights. A subscriber whose `checked` is another number is out of
date, and is told nothing before check() has looked.
"""

from collections.abc import Callable, Iterator

from node.core.core import Core
from node.core.request import Operation
from node.events.happened import Event
from node.events.subscription import End, Interest, Subscription
from node.policy.acl import ACL
from node.store import Store
from storage import command as c
from storage.entries import IDENTITY
from storage.rows import Token

PATH = "sys/events/subscribe/"
OUT_OF_DATE = -1
DECISIONS_MAX = 65_536
LINEAGE_MAX = 64  # ancestors of a token that are remembered; whose line is longer is looked up more often


class Audience:
    """The subscribers of one open store."""

    def __init__(self, core: Core, store: Store) -> None:
        self._core, self._store = core, store
        self.all: set[Subscription] = set()
        self.rights = 0
        self._interests: dict[tuple[frozenset[str], str, ACL], Interest] = {}
        self._members: dict[Interest, set[Subscription]] = {}
        self._by_path: dict[str | None, set[Interest]] = {}
        self._decisions: dict[tuple[ACL, str, str], bool] = {}

    def admit(self, subscription: Subscription) -> None:
        """One more. Nothing is known of its rights yet but that it had some."""
        subscription.lineage = self._lineage(subscription.row)
        self.all.add(subscription)

    def dismiss(self, subscription: Subscription) -> None:
        self.all.discard(subscription)
        self._leave(subscription)

    # --- rights ---

    def everybody_out_of_date(self) -> None:
        self.rights += 1
        self._decisions.clear()

    def note(self, command: c.AnyCommand) -> None:
        """A command was applied: whoever may have lost, or got, a right by it is out of date."""
        match command:
            case c.PolicyPut() | c.PolicyDelete() | c.MountRemove():
                self.everybody_out_of_date()
            case c.TokenRevoke():
                self._doubt(lambda each: command.digest in each.lineage or len(each.lineage) >= LINEAGE_MAX)
            case c.TokenRenew():
                self._doubt(lambda each: command.digest == each.row.digest)
            case c.TokensExpire():  # of its own end a subscriber is reminded by the clock
                self._doubt(lambda each: len(each.lineage) > 1)
            case _ if getattr(command, "view", None) == IDENTITY:
                self._doubt(lambda each: bool(each.row.entity_id))

    def _doubt(self, affected: Callable[[Subscription], bool]) -> None:
        for each in self.all:
            if affected(each):
                each.checked = OUT_OF_DATE

    def _lineage(self, row: Token) -> tuple[bytes, ...]:
        """The token and those with which it goes."""
        line, parent = [row.digest], row.parent
        while parent is not None and len(line) < LINEAGE_MAX:
            line.append(parent)
            above = self._store.token(parent)
            parent = None if above is None else above.parent
        return tuple(line)

    def check(self, subscription: Subscription) -> bool:
        """Whether it may go on, by the rights of now; if not, it is ended."""
        if subscription.checked == self.rights:
            return True
        request, core = subscription.request, self._core
        row = None
        if request.token is not None:
            row = core.tokens.still(self._store, request.token, request.remote)
        if row is None:
            subscription.end(End.REVOKED)
            return False
        acl = core.acl(row)
        if not acl.allows(Operation.READ, request.path, request.parameters, sudo=False):
            subscription.end(End.FORBIDDEN)
            return False
        subscription.row, subscription.acl, subscription.checked = row, acl, self.rights
        self._join(subscription)
        return True

    def may_hear(self, acl: ACL, event: Event) -> bool:
        """Whether policies let their holder hear of it: who may read or list the path, or subscribe to it."""
        path, kind = event.data_path, event.type
        known = self._decisions.get((acl, path, kind))
        if known is None:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            known = self._decisions[acl, path, kind] = (
                acl.allows(Operation.READ, path, {}, sudo=False)
                or acl.allows(Operation.LIST, path, {}, sudo=False)
                or acl.subscribes(path, kind)
            )
        return known

    # --- interests ---

    @property
    def interests(self) -> int:
        """How many there are that every event has to be compared with."""
        return len(self._by_path.get(None, ()))

    def interested(self, kind: str, facts: dict[str, str]) -> Iterator[Interest]:
        """Who asked for such an event, whether or not they may hear of it."""
        for path in (None, facts["data_path"]):
            for interest in tuple(self._by_path.get(path, ())):
                if kind in interest.types and interest.filter.lets(facts):
                    yield interest

    def members(self, interest: Interest) -> tuple[Subscription, ...]:
        """Those who share it now."""
        return tuple(self._members.get(interest, ()))

    def _join(self, subscription: Subscription) -> None:
        key = (subscription.types, subscription.filter.text, subscription.acl)
        interest = self._interests.get(key)
        if interest is None:
            interest = Interest(subscription.types, subscription.filter, subscription.acl)
            self._interests[key] = interest
            self._members[interest] = set()
            self._by_path.setdefault(interest.filter.data_path, set()).add(interest)
        if subscription.interest is not interest:
            self._leave(subscription)
            subscription.interest = interest
            self._members[interest].add(subscription)

    def _leave(self, subscription: Subscription) -> None:
        interest, subscription.interest = subscription.interest, None
        if interest is None:
            return
        self._members[interest].discard(subscription)
        if not self._members[interest]:
            path = interest.filter.data_path
            del self._members[interest]
            del self._interests[interest.types, interest.filter.text, interest.acl]
            self._by_path[path].discard(interest)
            if not self._by_path[path]:
                del self._by_path[path]
