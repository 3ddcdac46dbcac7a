"""Versions of secrets between their command and the tables: written many at once, read as if they were there.

A KvPut is decided by the head of its key (the row of kv_keys) and the limits of its mount. Both are kept in memory,
and what it changes waits here until flush(), which writes every table with one statement for all rows. Whatever
else looks at these tables, or changes them, flushes first. Nothing waits beyond the machine's commit(). What was
written stays known here until its commit is done, because reads during a commit see the tables as they were before.

The rules are those of HashiCorp Vault's kv-v2 (vault-plugin-secrets-kv, path_data.go): how many versions are kept is
the larger of the mount's and the key's number, the lifetime of a version is the smaller of theirs, and the oldest
version moves when a write fills the window.
"""

import math
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from storage import data_keys
from storage.command import KvPut, Sealed
from storage.database import Database, Row
from storage.outcome import Done, Outcome, Reason, Rejected
from storage.rows import KvKey, KvVersion

VERSIONS_DEFAULT = 10  # what max_versions = 0 means
HEADS_MAX = 16_384
SLOTS_KNOWN_MAX = 16  # of one key
WAITING_ROWS_MAX = 128  # then they are written, unless a commit is under way
# At a time, behind a commit: what waited for it holds up nobody for long.
CAUGHT_UP_ROWS_MAX = 2 * WAITING_ROWS_MAX
DELAYED_ROWS_MAX = 4096  # then all are written, and a commit that is under way is waited for
SETTLED_HEADS_MAX = 4  # with every write, once their commit is done
WAITING_BYTES_MAX = 4 << 20
HELD_BYTES_MAX = 32 << 20  # of values whose commit is not done

_HEAD = (
    "SELECT id, current_version, oldest_version, created_ns, updated_ns, max_versions, cas_required,"
    " delete_version_after_ns, custom_metadata FROM kv_keys WHERE mount_id = ? AND path = ?"
)
_MOUNT = "SELECT max_versions, cas_required, delete_version_after_ns FROM mounts WHERE mount_id = ?"
_VERSION = (
    "SELECT v.version, v.created_ns, v.deletion_ns, v.destroyed, v.term, d.wrapped_key, v.ciphertext"
    " FROM kv_versions v LEFT JOIN data_keys d USING (slot) WHERE v.key_id = ? AND v.version = ?"
)
_READ = (
    "SELECT v.version, v.created_ns, v.deletion_ns, v.destroyed, v.term, d.wrapped_key, v.ciphertext,"
    " k.custom_metadata FROM kv_keys k JOIN kv_versions v"
    " ON v.key_id = k.id AND v.version = iif(?3 = 0, k.current_version, ?3)"
    " LEFT JOIN data_keys d USING (slot) WHERE k.mount_id = ?1 AND k.path = ?2"
)
_CURRENT = (
    "SELECT v.version, v.created_ns, v.deletion_ns, v.destroyed, v.term, d.wrapped_key, v.ciphertext,"
    " k.custom_metadata, k.id, k.mount_id, k.path FROM kv_keys k"
    " LEFT JOIN kv_versions v ON v.key_id = k.id AND v.version = k.current_version"
    " LEFT JOIN data_keys d USING (slot) WHERE k.id > ? ORDER BY k.id LIMIT ?"
)
_NEW_KEY = (
    "INSERT INTO kv_keys (current_version, oldest_version, updated_ns, id, mount_id, path, created_ns)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_SLOTS = "SELECT version, slot FROM kv_versions WHERE key_id = ? AND version >= ? ORDER BY version LIMIT ?"
_KEY = "UPDATE kv_keys SET current_version = ?, oldest_version = ?, updated_ns = ? WHERE id = ?"
_NEW_VERSION = (
    "INSERT INTO kv_versions (version, created_ns, deletion_ns, term, slot, ciphertext, key_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_REPLACED_VERSION = (
    "UPDATE kv_versions SET version = ?, created_ns = ?, deletion_ns = ?, destroyed = 0, term = ?, slot = ?,"
    " ciphertext = ? WHERE key_id = ? AND version = ?"
)

_map_decode = msgspec.msgpack.Decoder(dict[str, str]).decode

Place = tuple[str, str]  # mount id and path


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a mount asks for; 0 means nothing, a negative lifetime means never delete."""

    max_versions: int
    cas_required: bool
    delete_version_after_ns: int


class _Waiting(msgspec.Struct, gc=False):
    """A version that is not in its table yet."""

    created_ns: int
    deletion_ns: int
    value: Sealed
    slot: int
    replaces: int | None  # the version whose row it takes: one that this write pushed out of the window
    batch: int  # the commit that it will be part of


@dataclass(slots=True)
class _Head:
    """A key as it is now, and its versions that wait."""

    id: int
    current_version: int
    oldest_version: int
    created_ns: int
    updated_ns: int
    max_versions: int
    cas_required: bool
    delete_version_after_ns: int
    custom_metadata: dict[str, str] | None
    is_new: bool = False
    slots: dict[int, int] = field(default_factory=dict)  # of versions in the table, as far as known
    waiting: dict[int, _Waiting] = field(default_factory=dict)
    written: dict[int, _Waiting] = field(default_factory=dict)  # in the table, and not committed


class Recent:
    """See the module. Belongs to the machine's thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._heads: dict[Place, _Head] = {}
        self._changed: dict[Place, _Head] = {}  # those that flush() has to write
        self._open: dict[Place, _Head] = {}  # those changed since the last commit began
        self._closing: dict[Place, _Head] = {}  # those in the commit under way
        self._batch = 0
        self._held_bytes = self._closing_bytes = 0
        self._mounts: dict[str, _Limits | None] = {}
        self._next_id = 0  # of a new key; 0: not known
        self._rows = self._bytes = 0  # that wait
        self._added = 0  # rows since some were written

    # ---- writing ----

    def put(self, command: KvPut) -> Outcome:
        """See KvPut."""
        mount = self._limits(command.mount_id)
        if mount is None:
            return Rejected(Reason.NO_SUCH_MOUNT)
        place = (command.mount_id, command.path)
        head = self._head(place)
        current = 0 if head is None else head.current_version
        if command.cas is None:
            if mount.cas_required or (head is not None and head.cas_required):
                return Rejected(Reason.CAS_REQUIRED)
        elif command.cas != current:
            return Rejected(Reason.CAS_MISMATCH)
        if command.version != current + 1:
            return Rejected(Reason.VERSION_RACED)
        if len(command.value.wrapped_key) > data_keys.WRAPPED_KEY_BYTES_MAX:
            return Rejected(Reason.MALFORMED)
        if head is None:
            head = self._create(place, command.time_ns)
        deletion_ns = _deletion_ns(command.time_ns, mount, head)
        self._add(place, head, command, deletion_ns, max(mount.max_versions, head.max_versions))
        return Done(
            {
                "version": command.version,
                "created_ns": command.time_ns,
                "deletion_ns": deletion_ns,
                "destroyed": False,
                "custom_metadata": head.custom_metadata,
            }
        )

    def _add(self, place: Place, head: _Head, command: KvPut, deletion_ns: int, keep: int) -> None:
        slot, replaces = self._make_room(head, command.version, keep or VERSIONS_DEFAULT)
        slot = data_keys.write(self._db, slot, command.value.wrapped_key)
        head.waiting[command.version] = _Waiting(
            command.time_ns, deletion_ns, command.value, slot, replaces, self._batch
        )
        head.current_version, head.updated_ns = command.version, command.time_ns
        self._changed[place] = self._open[place] = head
        size_bytes = len(command.value.ciphertext)
        self._rows += 1
        self._added += 1
        self._bytes += size_bytes
        self._held_bytes += size_bytes
        if self._rows >= DELAYED_ROWS_MAX or self._bytes >= WAITING_BYTES_MAX:
            self.flush()
        elif self._added >= WAITING_ROWS_MAX and not self._db.committing:
            self._write(CAUGHT_UP_ROWS_MAX)
        if self._closing and not self._db.committing:
            self._settle(SETTLED_HEADS_MAX)

    @property
    def is_full(self) -> bool:
        """Whether it is time to commit."""
        return self._held_bytes >= HELD_BYTES_MAX

    def commit_begins(self) -> None:
        """After flush(): what was written until now is part of a commit that has begun, and the last one is done."""
        self._settle(len(self._closing))
        self._closing, self._open = self._open, {}
        self._closing_bytes = self._held_bytes
        self._batch += 1

    def committed(self) -> None:
        """After flush(): everything that was written is committed."""
        self.commit_begins()
        self._settle(len(self._closing))

    def _settle(self, heads_max: int) -> None:
        """The last commit is done: what it wrote is in the tables for everybody, and need not be known here."""
        for _ in range(min(heads_max, len(self._closing))):
            _, head = self._closing.popitem()
            head.written = {number: row for number, row in head.written.items() if row.batch == self._batch}
        if not self._closing:
            self._held_bytes -= self._closing_bytes
            self._closing_bytes = 0

    def _make_room(self, head: _Head, version: int, keep: int) -> tuple[int | None, int | None]:
        """Push out what no longer fits the window; returns the slot and the row that are to be used again.

        When the window is full for the first time nothing goes, but the oldest version moves from 0 to 1.
        """
        oldest = head.oldest_version
        if version - oldest < keep:
            return None, None
        last = version - keep
        head.oldest_version = last + 1
        if last < 1:
            return None, None
        if last > max(oldest, 1):  # max_versions was lowered
            self._push_out(head, last)
            return None, None
        head.written.pop(last, None)
        waits = head.waiting.pop(last, None)
        if waits is not None:
            self._rows -= 1
            self._bytes -= len(waits.value.ciphertext)
            return waits.slot, waits.replaces
        slot = head.slots.pop(last, None)
        if slot is not None:
            return slot, last
        return self._looked_up(head, last)

    def _looked_up(self, head: _Head, last: int) -> tuple[int | None, int | None]:
        """As _make_room(), from the table; the slots that the next writes of this key will need are known then."""
        self._db.settle()
        slots: dict[int, int | None] = dict(self._db.all(_SLOTS, (head.id, last, SLOTS_KNOWN_MAX)))
        if last not in slots:
            return None, None
        slot = slots.pop(last)  # None: destroyed
        head.slots = {version: each for version, each in slots.items() if each is not None}
        return slot, last

    def _push_out(self, head: _Head, last: int) -> None:
        self.flush()
        condition, parameters = "key_id = ? AND version <= ?", (head.id, last)
        data_keys.erase(self._db, "kv_versions", condition, parameters)
        self._db.run(f"DELETE FROM kv_versions WHERE {condition}", parameters)  # noqa: S608 - a constant
        head.slots.clear()
        head.written.clear()

    def _create(self, place: Place, time_ns: int) -> _Head:
        if not self._next_id:
            self._db.settle()
            row = self._db.one("SELECT coalesce(max(id), 0) + 1 FROM kv_keys")
            self._next_id = int(row[0]) if row else 1
        head = _Head(self._next_id, 0, 0, time_ns, time_ns, 0, False, 0, None, is_new=True)
        self._next_id += 1
        self._keep(place, head)
        return head

    def flush(self) -> None:
        """Everything that waits is in the tables, in the open transaction, when this returns."""
        self._write(None)

    def _write(self, rows_max: int | None) -> None:
        """flush(), or about so many of the rows that wait longest, with their keys."""
        self._db.settle()
        self._added = 0
        if not self._changed:
            return
        new_keys: list[Row] = []
        keys: list[Row] = []
        new_versions: list[Row] = []
        replaced: list[Row] = []
        changed = list(islice(self._changed.items(), rows_max))  # each has a row, or several
        for place, head in changed:
            if len(new_versions) + len(replaced) >= (rows_max or math.inf):
                break
            del self._changed[place]
            row = (head.current_version, head.oldest_version, head.updated_ns, head.id)
            if head.is_new:
                new_keys.append((*row, *place, head.created_ns))
                head.is_new = False
            else:
                keys.append(row)
            for version, waits in head.waiting.items():
                self._rows -= 1
                self._bytes -= len(waits.value.ciphertext)
                _rows_of(head, version, waits, new_versions, replaced)
            head.written.update(head.waiting)
            head.waiting.clear()
        data_keys.flush(self._db, rows_max if self._changed else None)
        run_many = self._db.run_many
        run_many(_NEW_KEY, new_keys)
        run_many(_KEY, keys)
        run_many(_REPLACED_VERSION, replaced)
        run_many(_NEW_VERSION, new_versions)

    def forget(self) -> None:
        """flush(), and look everything up anew: somebody else is about to change these tables."""
        self.flush()
        for known in (self._heads, self._open, self._closing, self._mounts):
            known.clear()
        self._held_bytes = self._closing_bytes = 0
        self._next_id = 0

    # ---- reading ----

    def key(self, mount_id: str, path: str) -> KvKey | None:
        """See Reads.kv_key()."""
        head = self._head((mount_id, path))
        if head is None:
            return None
        return KvKey(
            path,
            head.current_version,
            head.oldest_version,
            head.created_ns,
            head.updated_ns,
            head.max_versions,
            head.cas_required,
            head.delete_version_after_ns,
            head.custom_metadata,
        )

    def version(self, mount_id: str, path: str, version: int) -> KvVersion | None:
        """See Reads.kv_version()."""
        place = (mount_id, path)
        head = self._heads.get(place) or self._open.get(place) or self._closing.get(place)
        if head is None:  # nothing of it waits: a read among many keys is one query, and keeps nothing
            row = self._db.one(_READ, (mount_id, path, version))
            return None if row is None else _version(row, None if row[7] is None else _map_decode(row[7]))
        version = version or head.current_version
        waits = head.waiting.get(version) or head.written.get(version)
        if waits is not None:
            return KvVersion(
                version, waits.created_ns, waits.deletion_ns, False, waits.value, head.custom_metadata
            )
        if version < head.oldest_version:
            return None  # its row may wait to be used again
        row = self._db.one(_VERSION, (head.id, version))
        return None if row is None else _version(row, head.custom_metadata)

    def current(self, after: int, limit: int) -> tuple[int, list[tuple[Place, KvVersion]]]:
        """See Reads.kv_current()."""
        found, last = [], 0
        for row in self._db.all(_CURRENT, (after, limit)):
            last, place = row[8], (row[9], row[10])
            if row[0] is None or any(place in known for known in (self._changed, self._open, self._closing)):
                continue  # what it has now may not be in the table, or not be visible yet
            found.append((place, _version(row, None if row[7] is None else _map_decode(row[7]))))
        return last, found

    def _head(self, place: Place) -> _Head | None:
        head = self._heads.get(place)
        if head is not None:
            return head
        head = self._open.get(place) or self._closing.get(place)
        if head is None:
            row = self._db.one(_HEAD, place)
            if row is None:
                return None
            custom = None if row[8] is None else _map_decode(row[8])
            head = _Head(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6]), row[7], custom)
        self._keep(place, head)
        return head

    def _keep(self, place: Place, head: _Head) -> None:
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()  # those that matter are in _open or _closing too
        self._heads[place] = head

    def _limits(self, mount_id: str) -> _Limits | None:
        if mount_id not in self._mounts:
            row = self._db.one(_MOUNT, (mount_id,))
            if row is None:
                return None
            self._mounts[mount_id] = _Limits(row[0], bool(row[1]), row[2])
        return self._mounts[mount_id]


def _version(row: Row, custom_metadata: dict[str, str] | None) -> KvVersion:
    destroyed = bool(row[3])
    value = None if destroyed else Sealed(row[4], data_keys.content(row[5]), row[6])
    return KvVersion(row[0], row[1], row[2], destroyed, value, custom_metadata)


def _rows_of(
    head: _Head, version: int, waits: _Waiting, new_versions: list[Row], replaced: list[Row]
) -> None:
    """Adds the row of a waiting version to one of the two lists."""
    value = waits.value
    row = (version, waits.created_ns, waits.deletion_ns, value.term, waits.slot, value.ciphertext, head.id)
    if waits.replaces is None:
        new_versions.append(row)
    else:
        replaced.append((*row, waits.replaces))
    if len(head.slots) >= SLOTS_KNOWN_MAX:
        head.slots.clear()
    head.slots[version] = waits.slot


def _deletion_ns(created_ns: int, mount: _Limits, key: _Head) -> int:
    if mount.delete_version_after_ns < 0 or not (
        mount.delete_version_after_ns or key.delete_version_after_ns
    ):
        return 0
    lifetimes = [ns for ns in (mount.delete_version_after_ns, key.delete_version_after_ns) if ns > 0]
    return created_ns + min(lifetimes) if lifetimes else 0
