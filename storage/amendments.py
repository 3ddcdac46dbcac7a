"""What is changed in a copy of another state before it becomes the state of a group that goes on.

Deterministic: a function of the copy and of the present state, so every member makes the same of both. The group
keeps what it runs on, however old the copy is: who its members are, its authority, the seal that people hold
shares of, and every key term (each is wrapped under the same root key, and what the present seal's file is
enveloped in must open). Of requests it knows those that the copy knows: what is in the restored state is not done
again by whoever repeats his request, and what is not in it may be. Neither clock nor position runs backwards: what has
expired stays expired, and no revision is used twice.
"""

from typing import Any

from storage import cluster, data_keys, regions
from storage.command import OWN_VIEWS, NodePut
from storage.database import Database
from storage.errors import Incompatible, NotWanted

_OF_GROUP = ("nodes", "join_tokens", "system_secrets")
_OF_REGIONS = ("region", "regions", "epochs")
_OWN = f"view >= '{OWN_VIEWS}' AND view < '{OWN_VIEWS[:-1]};'"  # ";" follows ":"
_OWN_FIELDS = "view, path, revision, created_ns, updated_ns, expires_ns, owner, term"


def reset(copy: Any, present: Any, index: int, request_id: bytes, outcome: bytes) -> None:
    """Make `copy` the state at `index`; `request_id` is what asked for it. Both are SQLite connections.

    Raises Incompatible if it is another store's, NotWanted if what this one has become by now is not to be replaced
    by it: another region's state is for who follows, a backup for who has no regions. Whoever asked may have seen
    something else, and what was ordered since is not for him to undo.
    """
    own_name = "SELECT cluster_id FROM cluster"
    if copy.execute(own_name).fetchall() != present.execute(own_name).fetchall():
        raise Incompatible("the copy belongs to another store")
    own_role = "SELECT role FROM region"
    arriving = copy.execute(own_role).fetchone()[0] == regions.ARRIVING
    role = present.execute(own_role).fetchone()[0]
    if role != (regions.SECONDARY if arriving else regions.ALONE):
        raise NotWanted(f"the cluster is {role} by now: its state is not to be replaced by that copy")
    if arriving:
        _settle(copy, present, index, request_id)
        return
    _keep(copy, present, _OF_GROUP + _OF_REGIONS)
    _keep_keys(copy, present)
    _keep_own(copy, present)
    states = [each.execute("SELECT clock_ns, position FROM state").fetchone() for each in (copy, present)]
    clock_ns, position = max(row[0] for row in states), max(row[1] for row in states) + 1
    copy.execute("DELETE FROM history")
    copy.execute(
        "UPDATE state SET applied_index = ?, position = ?, clock_ns = ?, authority = ?",
        (index, position, clock_ns, position),
    )
    copy.execute(
        "INSERT INTO outcomes (position, request_id, time_ns, outcome) VALUES (?, ?, ?, ?)",
        (position, request_id, clock_ns, outcome),
    )


def _settle(copy: Any, present: Any, index: int, request_id: bytes) -> None:
    """Another region's history becomes this region's, which follows from there: positions, epochs, outcomes and all.

    Only what is the group's own stays. The group remembers by which request, as a history has no place for it.
    """
    _keep(copy, present, _OF_GROUP)
    _keep_own(copy, present)
    name, level = present.execute("SELECT name, level FROM region").fetchone()
    copy.execute(
        "UPDATE region SET name = ?, level = ?, role = ?, settled_by = ?",
        (name, level, regions.SECONDARY, request_id),
    )
    copy.execute("UPDATE state SET applied_index = ?", (index,))


def enter_alone(db: Database, node: NodePut) -> None:
    """Make a state that is to begin a log of its own that of a group of this one node: it has no other yet.

    Regions that followed the store follow whoever they did; this one knows nothing of them.
    """
    for table in ("nodes", "join_tokens", "outcomes", "history", "regions", "epochs"):
        db.run(f"DELETE FROM {table}")  # noqa: S608 - constants
    db.run("UPDATE region SET role = 'alone'")
    cluster.node_put(db, node)


def _keep(copy: Any, present: Any, tables: tuple[str, ...]) -> None:
    for table in tables:
        copy.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        _insert(copy, table, present.execute(f"SELECT * FROM {table}").fetchall())  # noqa: S608


def _keep_keys(copy: Any, present: Any) -> None:
    """All terms of both. Of how much each has wrapped nothing is known to be too little."""
    known = {row[0] for row in present.execute("SELECT term FROM key_terms")}
    rows = [row for row in copy.execute("SELECT * FROM key_terms") if row[0] not in known]
    copy.execute("DELETE FROM key_terms")
    _insert(copy, "key_terms", present.execute("SELECT * FROM key_terms").fetchall() + rows)
    wraps = present.execute("SELECT wraps FROM state").fetchone()[0]
    copy.execute("UPDATE state SET wraps = wraps + ?", (wraps,))


def _keep_own(copy: Any, present: Any) -> None:
    """Entries of views that are the cluster's own, the seals among them."""
    copy.execute(
        f"UPDATE data_keys SET used = 0, wrapped_key = ? WHERE slot IN (SELECT slot FROM entries WHERE {_OWN})",  # noqa: S608
        (bytes(data_keys.SLOT_BYTES),),
    )
    copy.execute(f"DELETE FROM entries WHERE {_OWN}")  # noqa: S608 - a constant
    rows = present.execute(
        f"SELECT {_OWN_FIELDS}, ciphertext, wrapped_key FROM entries JOIN data_keys USING (slot)"  # noqa: S608
        f" WHERE {_OWN} ORDER BY view, path"
    ).fetchall()
    for *fields, ciphertext, wrapped_key in rows:
        copy.execute("INSERT INTO data_keys (used, wrapped_key) VALUES (1, ?)", (wrapped_key,))
        slot = copy.execute("SELECT max(slot) FROM data_keys").fetchone()[0]
        copy.execute(
            f"INSERT INTO entries ({_OWN_FIELDS}, slot, ciphertext)"  # noqa: S608 - a constant
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*fields, slot, ciphertext),
        )


def _insert(connection: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        marks = ",".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608
