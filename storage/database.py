"""The encrypted database file of one node: open, transactions, checkpoint, copy and swap.

SQLCipher encrypts and authenticates every page under a raw 256-bit key. SQLite's write-ahead log with
synchronous=NORMAL makes a commit survive a killed process; checkpoint() makes it survive a power loss.
Everything runs on the owner's thread except checkpoint(), copy_to() and stage(), which use connections of their
own, and the commit that commit_soon() begins. While that is under way reads see what was committed before, and writes
wait for it.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

from storage import files
from storage.connection import PAGE_BYTES, connect, translate, translated
from storage.errors import Corrupt, Incompatible

FORMAT = 8
KEY_BYTES = 32
CACHE_KIB = 96 * 1024  # at most: a small state fills little. A page that is not there is decrypted again
HELPER_CACHE_KIB = 4 * 1024  # of connections that go through everything once: copies, checks, checkpoints
CHECKPOINT_BUSY_TIMEOUT_S = 5.0  # then the log is synced instead of folded in
READER_CACHE_KIB = 8 * 1024

_SCHEMA = Path(__file__).with_name("schema.sql")

Row = tuple[Any, ...]
Amendment = Callable[[Any, Any], None]  # of the copy, with what is here now: two connections


@dataclass(slots=True)
class SlotMemory:
    """What data_keys.py remembers of its table, and what it has yet to write there: content by slot."""

    free: list[int] | None = None  # some of the free slots; None: not looked up
    next: int = 0  # behind the last slot; 0: not known
    rewritten: dict[int, bytes] = field(default_factory=dict)  # slots that are in use
    claimed: dict[int, bytes] = field(default_factory=dict)  # that were free
    added: dict[int, bytes] = field(default_factory=dict)  # that the table does not have yet


class Database:
    """One connection with statements by text, and the file below it. One thread, save where it says so."""

    def __init__(self, path: Path | None, *, key: bytes, cache_kib: int = CACHE_KIB) -> None:
        """Open or create; None keeps everything in memory. Raises WrongKey, Corrupt, Incompatible."""
        self._cache_kib = cache_kib
        if len(key) != KEY_BYTES:
            raise ValueError(f"a database key has {KEY_BYTES} bytes")
        self.path = path
        self._key = key
        self._swapping = threading.Lock()  # checkpoint() and copy_to() never meet a file being swapped
        if path is not None:
            _incoming(path).unlink(missing_ok=True)
            if not path.exists():
                files.create_empty(path)
                files.sync_directory(path.parent)
            elif 0 < path.stat().st_size < PAGE_BYTES:
                raise Corrupt(f"{path.name} is cut")  # SQLite would begin a new database in it
        self.index = 0  # of the log entry that is being applied
        self.clock_ns = 0  # the latest stamp so far, that of this entry included
        self.slots = SlotMemory()
        self._staged: Path | None = None  # what stage() laid ready; it holds _swapping then
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._closing: Future[None] | None = None  # of commit_soon(); one that failed stays
        self._connection = self._open()
        self._reader = self._open_reader()

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row of a query."""
        connection = self._connection if self._closing is None else self._reading()
        try:
            row: Row | None = connection.execute(sql, parameters).fetchone()
        except sqlcipher.DatabaseError as error:
            raise translate(error) from error
        return row

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row of a query: the caller bounds it."""
        try:
            rows: list[Row] = self._reading().execute(sql, parameters).fetchall()
        except sqlcipher.DatabaseError as error:
            raise translate(error) from error
        return rows

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Row]:
        """Row by row, for what may be large. Exhaust it before the next write."""
        with translated():
            yield from self._reading().execute(sql, parameters)

    def run(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Execute a write, in the open transaction or a new one; returns how many rows it changed."""
        try:
            count: int = self._writing().execute(sql, parameters).rowcount
        except sqlcipher.DatabaseError as error:
            raise translate(error) from error
        return count

    def insert(self, sql: str, parameters: Sequence[object]) -> int:
        """run() for an INSERT of one row; returns its rowid."""
        try:
            row_id: int = self._writing().execute(sql, parameters).lastrowid
        except sqlcipher.DatabaseError as error:
            raise translate(error) from error
        return row_id

    def run_many(self, sql: str, rows: Collection[Sequence[object]]) -> None:
        """Execute one write for each row of parameters."""
        if not rows:
            return
        try:
            self._writing().executemany(sql, rows)
        except sqlcipher.DatabaseError as error:
            raise translate(error) from error

    def commit(self) -> None:
        self.settle()
        self._commit_now()

    def commit_soon(self) -> None:
        """commit() in a thread, which costs time by the page. In memory: at once."""
        self.settle()
        if self._reader is None:
            self._commit_now()
        else:
            self._closing = self._thread.submit(self._commit_now)

    @property
    def committing(self) -> bool:
        """Whether commit_soon() is under way: reads see what was committed before it."""
        return self._closing is not None and not self._closing.done()

    def settle(self) -> None:
        """Wait for the end of commit_soon(). After it, reads see everything. Raises what it raised, every time."""
        if self._closing is not None:
            try:
                self._closing.result()
            except sqlcipher.DatabaseError as error:
                raise translate(error) from error
            self._closing = None

    def rollback(self) -> None:
        self.slots = SlotMemory()
        if self._closing is not None:
            self._closing.exception()  # its end is all that matters: nothing will be written any more
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _reading(self) -> Any:
        if self._closing is None:
            return self._connection
        if self._closing.done():
            self.settle()
            return self._connection
        return self._reader

    def _writing(self) -> Any:
        if self._closing is not None:
            self.settle()
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _commit_now(self) -> None:
        if self._connection.in_transaction:
            with translated():
                self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close; what was not committed is gone."""
        self.unstage()
        self._thread.shutdown(wait=True)
        with self._swapping:
            self._close_connections()

    def _close_connections(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._connection.close()

    def checkpoint(self, read_index: str) -> int:
        """Any thread: make everything committed durable. Returns the integer that the query `read_index`
        gave before: whatever it counts is on the disk now.
        """
        if self.path is None:
            return self._integer(self._connection, read_index)
        with self._swapping, contextlib.closing(self._connect(self.path)) as connection, translated():
            connection.execute(f"PRAGMA busy_timeout = {int(CHECKPOINT_BUSY_TIMEOUT_S * 1000)}").fetchall()
            index = self._integer(connection, read_index)
            # PASSIVE does the bulk without stopping writers; TRUNCATE then holds them for a moment, and
            # leaves no older page image behind. If it finds no moment, the log itself is synced instead.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                files.sync_file(_sibling(self.path, "-wal"))
            files.sync_directory(self.path.parent)
            return index

    def copy_to(self, target: Path, read_index: str) -> int:
        """Any thread: write a consistent copy of what is committed, under the same key, to a new file.

        Returns what the query `read_index` gives in the copy. In memory: only between transactions.
        """
        files.create_empty(target)
        with self._swapping, translated():
            if self.path is None:
                self._connection.execute("VACUUM INTO ?", (str(target),))
            else:
                with contextlib.closing(self._connect(self.path)) as connection:
                    connection.execute("VACUUM INTO ?", (str(target),))
            with contextlib.closing(self._connect(target)) as copy:
                index = self._integer(copy, read_index)
        files.sync_file(target)
        files.sync_directory(target.parent)
        return index

    def verify(self, source: Path, read_index: str, amend: Amendment) -> None:
        """Any thread: whether stage() would take this file, which is left as it is. Raises what stage() raises."""
        with _scratch(source) as copy:
            self._verify(copy, read_index, 0)
            if self.path is not None:
                self._amend(copy, self.path, amend)

    @contextlib.contextmanager
    def opened_copy(self, source: Path) -> Iterator["Database"]:
        """Any thread: a database of its own with what copy_to() wrote, under the same key; gone afterwards."""
        with (
            _scratch(source) as copy,
            contextlib.closing(Database(copy, key=self._key, cache_kib=HELPER_CACHE_KIB)) as database,
        ):
            yield database

    def stage(self, source: Path, read_index: str, *, at_least: int, amend: Amendment | None = None) -> None:
        """Any thread: verify a copy that copy_to() wrote anywhere, and lay it beside the file for replace().

        From then on until replace() or unstage(), checkpoint() and copy_to() wait. `source` is left as it is.
        `amend` changes the copy, knowing what the file itself holds by then. Raises WrongKey, Corrupt,
        Incompatible (also when the copy is older than `at_least`): nothing changed.
        """
        if self.path is None:
            self._verify(source, read_index, at_least)
            self._staged = source
            return
        incoming = _incoming(self.path)
        incoming.unlink(missing_ok=True)
        try:
            files.copy_durable(source, incoming)
            self._verify(incoming, read_index, at_least)
            if amend is not None:
                self._amend(incoming, self.path, amend)
            self.checkpoint(read_index)  # closing the old content folds its log in: let there be little of it
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        self._swapping.acquire()
        self._staged = source

    def _amend(self, incoming: Path, path: Path, amend: Amendment) -> None:
        with (
            contextlib.closing(self._connect(incoming)) as copy,
            contextlib.closing(self._connect(path)) as present,
            translated(),
        ):
            copy.execute("BEGIN IMMEDIATE")
            amend(copy, present)
            copy.execute("COMMIT")
        files.sync_file(incoming)

    def staged(self, sql: str) -> list[Row]:
        """Any thread: what a query gives in the copy that was laid ready."""
        where = self._staged if self.path is None else _incoming(self.path)
        if self._staged is None or where is None:
            raise RuntimeError("nothing was laid ready")
        with contextlib.closing(self._connect(where)) as connection, translated():
            rows: list[Row] = connection.execute(sql).fetchall()
            return rows

    def unstage(self) -> None:
        """Forget what stage() laid ready, if anything."""
        if self._staged is not None:
            self._staged = None
            if self.path is not None:
                _incoming(self.path).unlink(missing_ok=True)
                self._swapping.release()

    def replace(self) -> None:
        """Swap the content for what stage() laid ready.

        After a crash at any moment the file is the old one (with all it committed) or the new one, whole.
        """
        if self._staged is None:
            raise RuntimeError("nothing was laid ready")
        try:
            self.settle()
            self.rollback()
            if self.path is None:
                self._replace_in_memory(self._staged)
            else:
                self._swap(self.path)
        finally:
            self.unstage()
        self.slots = SlotMemory()

    def _swap(self, path: Path) -> None:
        self._close_connections()  # the last ones: the log is checkpointed, then removed
        log = _sibling(path, "-wal")
        if log.exists() and log.stat().st_size > 0:
            self._connection, self._reader = self._open(), self._open_reader()
            raise Corrupt("the write-ahead log could not be folded into the database before a swap")
        # A log left behind would be replayed into the new file: it must be gone before the rename.
        files.remove(log, _sibling(path, "-shm"))
        files.replace(_incoming(path), path)
        self._connection, self._reader = self._open(), self._open_reader()

    def _replace_in_memory(self, source: Path) -> None:
        with contextlib.closing(self._connect(source)) as copy, translated():
            self._connection.close()
            self._connection = self._open()
            self.slots = SlotMemory()
            for (table,) in self.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"):
                self.run(f'DELETE FROM "{table}"')  # noqa: S608 - names of our own schema
                for row in copy.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                    self.run(f'INSERT INTO "{table}" VALUES ({",".join("?" * len(row))})', row)  # noqa: S608
            self.commit()

    def _verify(self, path: Path, read_index: str, at_least: int) -> None:
        with contextlib.closing(self._connect(path)) as connection, translated():
            if connection.execute("PRAGMA cipher_integrity_check").fetchall():
                raise Corrupt(f"{path.name}: a page does not authenticate")
            if connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
                raise Corrupt(f"{path.name}: the database structure is damaged")
            _check_format(connection, path.name)
            index = self._integer(connection, read_index)
        if index < at_least:
            raise Incompatible(f"the copy ends at index {index}, this node is at {at_least} already")

    def _open(self) -> Any:
        """The owner's connection, with the schema in place."""
        connection = self._connect(self.path, cache_kib=self._cache_kib)
        try:
            with translated():
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
                    _create(connection)
                _check_format(connection, self.path.name if self.path else "memory")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> Any:
        """For reads while a commit is under way; None in memory, where there is only one connection."""
        if self.path is None:
            return None
        reader = self._connect(self.path, cache_kib=READER_CACHE_KIB)
        reader.execute("PRAGMA query_only = ON").fetchall()
        return reader

    def _connect(self, path: Path | None, *, cache_kib: int = HELPER_CACHE_KIB) -> Any:
        return connect(path, self._key, cache_kib=cache_kib)

    @staticmethod
    def _integer(connection: Any, sql: str) -> int:
        return int(connection.execute(sql).fetchone()[0])


def _create(connection: Any) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE;\n{_SCHEMA.read_text()}\nPRAGMA user_version = {FORMAT};\nCOMMIT;"
    )


def _check_format(connection: Any, name: str) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != FORMAT:
        raise Incompatible(f"{name} has format {found}, this build reads {FORMAT}")


@contextlib.contextmanager
def _scratch(source: Path) -> Iterator[Path]:
    """A copy beside `source`, for a while."""
    copy = _sibling(source, ".scratch")
    try:
        files.copy_durable(source, copy)
        yield copy
    finally:
        for suffix in ("", "-wal", "-shm"):
            _sibling(copy, suffix).unlink(missing_ok=True)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _incoming(path: Path) -> Path:
    return _sibling(path, ".incoming")
