"""How many data keys each key term has wrapped: counted from the log, so that no failover can lose any.

A ciphertext that no log holds exists nowhere; one whose command was refused does exist, and is counted. The count
of the newest term is kept in memory between commits, because every write changes it.
"""

import typing

from storage import command as c
from storage.database import Database


def _sealed_fields(kind: type) -> tuple[str, ...]:
    """The fields of a command that hold a Sealed, or a tuple of them."""
    hints = typing.get_type_hints(kind)
    return tuple(
        name for name, hint in hints.items() if hint is c.Sealed or c.Sealed in typing.get_args(hint)
    )


_SEALED: dict[type, tuple[str, ...]] = {
    kind: names for kind in typing.get_args(c.AnyCommand) if (names := _sealed_fields(kind))
}


class Wraps:
    """The counts of one database; the machine tells it of every command."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.newest = self.count = 0  # the term that seals, and what it has wrapped

    def load(self) -> None:
        """From what was committed."""
        self.newest = self._newest()
        row = self._db.one("SELECT wraps FROM state")
        self.count = int(row[0]) if row else 0

    def add(self, command: c.AnyCommand) -> None:
        """After a command was looked at, whatever became of it."""
        for name in _SEALED.get(type(command), ()):
            held = getattr(command, name)
            for sealed in held if isinstance(held, tuple) else (held,):
                if sealed is not None:
                    self.add_one(sealed.term)

    def add_one(self, term: int) -> None:
        """A data key was wrapped under `term`."""
        if term == self.newest:
            self.count += 1
        else:  # a proposer that has not seen the newest term yet
            self._db.run("UPDATE key_terms SET wraps = wraps + 1 WHERE term = ?", (term,))

    def turn(self) -> None:
        """After a key term was added: its predecessor's count is final, but for stragglers."""
        newest = self._newest()
        if newest != self.newest:
            self._db.run("UPDATE key_terms SET wraps = wraps + ? WHERE term = ?", (self.count, self.newest))
            self.newest, self.count = newest, 0

    def _newest(self) -> int:
        row = self._db.one("SELECT max(term) FROM key_terms")
        return int(row[0] or 0) if row else 0
