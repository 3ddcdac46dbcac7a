"""Typed queries on the state that has been applied, committed or not: each goes by an index."""

from collections.abc import Iterator
from typing import Any

import msgspec

from storage import data_keys, regions
from storage.command import Sealed
from storage.database import Database, Row
from storage.recent import Recent
from storage.rows import Entry, Epoch, KeyTerm, KvConfig, KvKey, KvVersion, Lease, Mount, Node, Region, Token

LIST_ENTRIES_MAX = 100_000  # what one call hands out unless told otherwise; go on with after=
_LIST_PAGE_ROWS = 64

_MOUNT = (
    "SELECT path, mount_id, accessor, kind, version, description, default_lease_ttl_ns, max_lease_ttl_ns,"
    " details FROM mounts"
)
_KV_PATHS = "SELECT path FROM kv_keys WHERE mount_id = ?"
_ENTRY_PATHS = "SELECT path FROM entries WHERE view = ?"
_LEASE_IDS = "SELECT lease_id AS path FROM leases WHERE ? = ''"
_LEASE = (
    "SELECT l.lease_id, l.mount_id, l.owner, l.issued_ns, l.ttl_ns, l.expires_ns, l.max_ns, l.renewed_ns, l.renewable,"
    " l.ending, l.due_ns, l.attempts, l.problem, l.irrevocable, l.term, d.wrapped_key, l.ciphertext"
    " FROM leases l JOIN data_keys d USING (slot)"
)
_BEARER = (
    "SELECT digest, accessor, parent, policies, path, display_name, metadata, num_uses, ttl_ns,"
    " explicit_max_ttl_ns, period_ns, renewable, created_ns, expires_ns, last_renewal_ns, entity_id, role,"
    " bound_cidrs, issuer FROM tokens"
)
_map_decode = msgspec.msgpack.Decoder(dict[str, str]).decode
_details_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_strings_decode = msgspec.msgpack.Decoder(tuple[str, ...]).decode


class Reads:
    """Answers from one node's state. Same thread as the machine; stays valid across a restore."""

    def __init__(self, database: Database, recent: Recent) -> None:
        self._db, self._recent = database, recent

    # --- KV ---

    def kv_key(self, mount_id: str, path: str) -> KvKey | None:
        return self._recent.key(mount_id, path)

    def kv_version(self, mount_id: str, path: str, version: int = 0) -> KvVersion | None:
        """One version with its value; 0 asks for the current one. None if there is no such version."""
        return self._recent.version(mount_id, path, version)

    def kv_current(self, after: int, limit: int) -> tuple[int, list[tuple[tuple[str, str], KvVersion]]]:
        """The current versions of the next `limit` keys, by mount id and path, without those just written.

        For going through all of them: begin `after` 0, go on after the number that is returned, until that is 0.
        """
        return self._recent.current(after, limit)

    def kv_versions(self, mount_id: str, path: str) -> list[KvVersion]:
        """The versions that a key has, oldest first, without their values."""
        self._recent.flush()
        rows = self._db.all(
            "SELECT v.version, v.created_ns, v.deletion_ns, v.destroyed FROM kv_keys k"
            " JOIN kv_versions v ON v.key_id = k.id WHERE k.mount_id = ? AND k.path = ? ORDER BY v.version",
            (mount_id, path),
        )
        return [KvVersion(row[0], row[1], row[2], bool(row[3]), None) for row in rows]

    def kv_expiring(
        self, after: int, now_ns: int, rows_max: int
    ) -> tuple[list[tuple[int, str, str, int]], int]:
        """(when, mount id, path, version) of versions that will be deleted by their age, among `rows_max` rows behind
        row `after`; and which row was the last of those, 0 if there are no more.
        """
        if not after:
            self._recent.flush()
        last = self._db.one(
            "SELECT max(id) FROM (SELECT id FROM kv_versions WHERE id > ? ORDER BY id LIMIT ?)",
            (after, rows_max),
        )
        end: int = 0 if last is None or last[0] is None else last[0]
        rows = self._db.all(
            "SELECT v.deletion_ns, k.mount_id, k.path, v.version FROM kv_versions v JOIN kv_keys k"
            " ON k.id = v.key_id WHERE v.id > ? AND v.id <= ? AND v.deletion_ns > ? AND v.destroyed = 0",
            (after, end, now_ns),
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows], end

    def kv_list(
        self, mount_id: str, prefix: str, after: str = "", limit: int = LIST_ENTRIES_MAX
    ) -> list[str]:
        """The children of the folder `prefix` ("" is the root), sorted: keys by name, folders with a "/".

        Only entries greater than `after`, and at most `limit`. A folder costs one step however much it holds.
        """
        self._recent.flush()
        return _take(self._children(_KV_PATHS, mount_id, _folder(prefix), after), limit)

    def kv_scan(
        self, mount_id: str, prefix: str, after: str = "", limit: int = LIST_ENTRIES_MAX
    ) -> list[str]:
        """Every key below the folder `prefix`, at any depth, sorted, relative to it."""
        self._recent.flush()
        return self._below(_KV_PATHS, mount_id, _folder(prefix), after, limit)

    def kv_config(self, mount_id: str) -> KvConfig:
        """A mount's defaults; all zero if there is no such mount."""
        row = self._db.one(
            "SELECT max_versions, cas_required, delete_version_after_ns FROM mounts WHERE mount_id = ?",
            (mount_id,),
        )
        return KvConfig(row[0], bool(row[1]), row[2]) if row else KvConfig(0, False, 0)

    # --- entries ---

    def entry(self, view: str, path: str) -> Entry | None:
        row = self._db.one(
            "SELECT e.path, e.revision, e.created_ns, e.updated_ns, e.expires_ns, e.owner, e.term,"
            " d.wrapped_key, e.ciphertext FROM entries e JOIN data_keys d USING (slot)"
            " WHERE e.view = ? AND e.path = ?",
            (view, path),
        )
        if row is None:
            return None
        value = Sealed(row[6], data_keys.content(row[7]), row[8])
        return Entry(row[0], row[1], row[2], row[3], row[4], row[5], value)

    def entry_list(self, view: str, prefix: str, after: str = "", limit: int = LIST_ENTRIES_MAX) -> list[str]:
        """The children of a folder of a view, as kv_list() gives them; expired ones too."""
        return _take(self._children(_ENTRY_PATHS, view, _folder(prefix), after), limit)

    def entry_scan(self, view: str, prefix: str, after: str = "", limit: int = LIST_ENTRIES_MAX) -> list[str]:
        """Every entry below a folder of a view, at any depth, sorted, relative to it; expired ones too."""
        return self._below(_ENTRY_PATHS, view, _folder(prefix), after, limit)

    def entries_due(self, now_ns: int) -> bool:
        """Whether EntriesExpire would find anything at `now_ns`."""
        sql = "SELECT 1 FROM entries WHERE expires_ns > 0 AND expires_ns <= ? LIMIT 1"
        return self._db.one(sql, (now_ns,)) is not None

    # --- leases ---

    def lease(self, lease_id: str) -> Lease | None:
        """A lease, ending ones too."""
        rows = self._leases("l.lease_id = ?", (lease_id,))
        return rows[0] if rows else None

    def leases_due(self, now_ns: int, limit: int) -> list[Lease]:
        """What the engines should take back now, longest due first."""
        return self._leases(
            "l.irrevocable = 0 AND l.due_ns <= ? ORDER BY l.due_ns, l.lease_id LIMIT ?", (now_ns, limit)
        )

    def leases_ending(self, prefix: str, after: str, limit: int) -> list[Lease]:
        """Leases that have ended and are not taken back yet, put off or not, whose id begins with `prefix`."""
        condition = (
            "l.lease_id >= ? AND substr(l.lease_id, 1, ?) = ? AND l.lease_id > ? AND l.ending = 1"
            " ORDER BY l.lease_id LIMIT ?"
        )
        return self._leases(condition, (prefix, len(prefix), prefix, after, limit))

    def leases_irrevocable(self, limit: int) -> list[Lease]:
        return self._leases("l.irrevocable = 1 ORDER BY l.lease_id LIMIT ?", (limit,))

    def leases_behind(self, now_ns: int) -> tuple[int, int]:
        """How many leases are due to be taken back, and how many are irrevocable; as dear as those are many."""
        due = self._db.one("SELECT count(*) FROM leases WHERE irrevocable = 0 AND due_ns <= ?", (now_ns,))
        given_up = self._db.one("SELECT count(*) FROM leases WHERE irrevocable = 1")
        return (due[0] if due else 0), (given_up[0] if given_up else 0)

    def lease_counts(self, *, irrevocable: bool) -> dict[str, int]:
        """How many leases there are, by the id of their mount."""
        sql = (
            "SELECT mount_id, count(*) FROM leases WHERE irrevocable = ? GROUP BY mount_id ORDER BY mount_id"
        )
        return dict(self._db.each(sql, (irrevocable,)))

    def lease_list(self, prefix: str, after: str = "", limit: int = LIST_ENTRIES_MAX) -> list[str]:
        """The children of a folder of lease ids, as kv_list() gives them."""
        return _take(self._children(_LEASE_IDS, "", _folder(prefix), after), limit)

    def _leases(self, condition: str, parameters: tuple[object, ...]) -> list[Lease]:
        rows = self._db.all(f"{_LEASE} WHERE {condition}", parameters)
        return [_lease(row) for row in rows]

    # --- mounts and policies ---

    def mounts(self) -> list[Mount]:
        return [_mount(row) for row in self._db.all(f"{_MOUNT} ORDER BY path")]

    def mount_for(self, path: str) -> Mount | None:
        """The mount that `path` lies in; a mount's own path counts with or without its slash.

        No mount's path is a prefix of another's, so the greatest one that is not greater than `path` is the
        only candidate.
        """
        inside = path if path.endswith("/") else path + "/"
        row = self._db.one(f"{_MOUNT} WHERE path <= ? ORDER BY path DESC LIMIT 1", (inside,))
        return _mount(row) if row is not None and inside.startswith(row[0]) else None

    def policy(self, name: str) -> str | None:
        row = self._db.one("SELECT text FROM policies WHERE name = ?", (name,))
        return row[0] if row else None

    def policies(self) -> list[str]:
        """The names, sorted."""
        return [name for (name,) in self._db.all("SELECT name FROM policies ORDER BY name")]

    # --- tokens ---

    def token(self, digest: bytes) -> Token | None:
        """A token that has not been revoked. It may have expired (expires_ns) or be spent (num_uses -1)."""
        return _token(self._db.one(f"{_BEARER} WHERE digest = ?", (digest,)))

    def token_by_accessor(self, accessor: str) -> Token | None:
        return _token(self._db.one(f"{_BEARER} WHERE accessor = ?", (accessor,)))

    def count_tokens(self) -> int:
        """How many service tokens there are, also those that have expired and were not swept yet."""
        row = self._db.one("SELECT count(*) FROM tokens")
        return int(row[0]) if row else 0

    def accessors(self, limit: int = LIST_ENTRIES_MAX, after: str = "") -> list[str]:
        rows = self._db.all(
            "SELECT accessor FROM tokens WHERE accessor > ? ORDER BY accessor LIMIT ?", (after, max(limit, 0))
        )
        return [accessor for (accessor,) in rows]

    def tokens_by_path(self, folder: str, limit: int) -> list[bytes]:
        """Digests of tokens that expire and that were made at the path `folder` (which ends with a slash) or in it."""
        sql = (
            "SELECT digest FROM tokens WHERE expires_ns > 0 AND substr(path || '/', 1, ?) = ?"
            " ORDER BY digest LIMIT ?"
        )
        return [digest for (digest,) in self._db.all(sql, (len(folder), folder, limit))]

    def tokens_due(self, now_ns: int) -> bool:
        """Whether TokensExpire would find anything at `now_ns`, spent tokens aside."""
        sql = "SELECT 1 FROM tokens WHERE expires_ns > 0 AND expires_ns <= ? LIMIT 1"
        return self._db.one(sql, (now_ns,)) is not None

    # --- cluster ---

    def nodes(self) -> list[Node]:
        rows = self._db.all(
            "SELECT node_id, region, api_address, cluster_address, link_address, software, level FROM nodes"
            " ORDER BY node_id"
        )
        return [Node(*row) for row in rows]

    def region(self) -> tuple[str, str]:
        """(name, role) of this region; the name is "" while there are none."""
        return regions.own(self._db)

    def regions(self) -> list[Region]:
        rows = self._db.all("SELECT name, endpoints, links, created_ns FROM regions ORDER BY name")
        return [Region(row[0], _strings_decode(row[1]), _strings_decode(row[2]), row[3]) for row in rows]

    def epochs(self) -> list[Epoch]:
        """Who ordered which part of the history, oldest first."""
        return [
            Epoch(*row) for row in self._db.all("SELECT epoch, region, position FROM epochs ORDER BY epoch")
        ]

    def key_terms(self) -> list[KeyTerm]:
        rows = self._db.all("SELECT term, wrapped_key, created_ns, wraps FROM key_terms ORDER BY term")
        return [KeyTerm(*row) for row in rows]

    def system_secret(self, name: str) -> Sealed | None:
        row = self._db.one("SELECT term, wrapped_key, ciphertext FROM system_secrets WHERE name = ?", (name,))
        return Sealed(*row) if row else None

    def cluster(self) -> tuple[str, str] | None:
        """(cluster_id, cluster_name), once initialised."""
        row = self._db.one("SELECT cluster_id, cluster_name FROM cluster")
        return (row[0], row[1]) if row else None

    def _below(self, paths: str, place: str, folder: str, after: str, limit: int) -> list[str]:
        """Paths in a folder, at any depth. `paths`: one of the two constants."""
        sql = f"{paths} AND path > ? AND path < ? ORDER BY path LIMIT ?"
        rows = self._db.all(sql, (place, folder + after, _end_of(folder), max(limit, 0)))
        return [path[len(folder) :] for (path,) in rows]

    def _children(self, paths: str, place: str, folder: str, after: str) -> Iterator[str]:
        """Entries of a folder in order. Index order of paths is the order of entries: an entry is a prefix of
        every path that it stands for.
        """
        name, slash, _ = after.partition("/")
        start = folder + name + "0" if slash else folder + after
        end = _end_of(folder)
        while True:
            sql = f"{paths} AND path >= ? AND path < ? ORDER BY path LIMIT ?"
            rows = self._db.all(sql, (place, start, end, _LIST_PAGE_ROWS))
            for (path,) in rows:
                if path < start:
                    continue  # in a folder that is done
                name, slash, _ = path[len(folder) :].partition("/")
                entry = name + slash
                start = folder + name + "0" if slash else path + "\0"
                if entry > after:
                    yield entry
            if len(rows) < _LIST_PAGE_ROWS:
                return


def _take(entries: Iterator[str], limit: int) -> list[str]:
    taken: list[str] = []
    for entry in entries:
        if len(taken) >= limit:
            break
        taken.append(entry)
    return taken


def _folder(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"


def _end_of(folder: str) -> str | bytes:
    """What is just greater than every path in a folder: "0" follows "/", and any blob follows all text."""
    return folder[:-1] + "0" if folder else b""


def _mount(row: Row) -> Mount:
    fields: list[Any] = [*row[:-1], _details_decode(row[-1])]
    return Mount(*fields)


def _lease(row: Row) -> Lease:
    value = Sealed(row[14], data_keys.content(row[15]), row[16])
    fields: list[Any] = [*row[:8], bool(row[8]), bool(row[9]), *row[10:13], bool(row[13]), value]
    return Lease(*fields)


def _token(row: Row | None) -> Token | None:
    if row is None:
        return None
    digest, accessor, parent, policies, path, display_name, metadata, *rest = row
    numbers: list[Any] = rest
    return Token(
        digest=digest,
        accessor=accessor,
        parent=parent,
        policies=_strings_decode(policies),
        path=path,
        display_name=display_name,
        metadata=None if metadata is None else _map_decode(metadata),
        num_uses=numbers[0],
        ttl_ns=numbers[1],
        explicit_max_ttl_ns=numbers[2],
        period_ns=numbers[3],
        renewable=bool(numbers[4]),
        created_ns=numbers[5],
        expires_ns=numbers[6],
        orphan=parent is None,
        last_renewal_ns=numbers[7],
        entity_id=numbers[8],
        role=numbers[9],
        bound_cidrs=_strings_decode(numbers[10]),
        issuer=numbers[11],
    )
