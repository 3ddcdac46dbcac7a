"""Connections to an encrypted database file, and what their errors mean."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from sqlcipher3 import dbapi2 as sqlcipher

from storage.errors import Corrupt, WrongKey

STATEMENTS_CACHED_MAX = 256
BUSY_TIMEOUT_S = 10.0
WAL_PAGES_MAX = 32 * 1024  # a commit beyond it checkpoints by itself; normally checkpoint() comes long before
PAGE_BYTES = 4096
_RESERVED_BYTES = 80  # SQLCipher 4: an IV of 16 bytes and an HMAC-SHA512 at the end of each page
_SQLITE_CORRUPT = 11
_SQLITE_NOTADB = 26
_SQLITE_FULL = 13

_PRAGMAS = (
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
    # Locking and wiping every allocation costs a lot and wins little here: the keys are Python objects too,
    # which cannot be wiped. Core dumps and swap are the process's concern.
    "PRAGMA cipher_memory_security = OFF",
    f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}",
)


def connect(path: Path | None, key: bytes, *, cache_kib: int) -> Any:
    """A connection under a raw key; None: to a database of its own in memory. Raises WrongKey, Corrupt."""
    connection = sqlcipher.connect(
        ":memory:" if path is None else str(path),
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED_MAX,
        timeout=BUSY_TIMEOUT_S,
    )
    try:
        # Its own call, not a statement: statements are cached, and a key does not belong there.
        connection.set_key(f"x'{key.hex()}'")
        connection.execute("PRAGMA cipher_log_level = NONE").fetchall()
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlcipher.DatabaseError as error:
            raise _unreadable(error, path, key) from None
        for pragma in (*_PRAGMAS, f"PRAGMA cache_size = -{cache_kib}"):
            connection.execute(pragma).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _unreadable(error: Exception, path: Path | None, key: bytes) -> Exception:
    if getattr(error, "sqlite_errorcode", None) not in (_SQLITE_NOTADB, _SQLITE_CORRUPT) or path is None:
        return error
    if _is_damaged(path, key):
        return Corrupt(f"{path.name}: the first page does not authenticate")
    return WrongKey(f"the key does not open {path.name}")


def translate(error: Exception) -> Exception:
    """A page that does not authenticate, or does not parse, is Corrupt; a full disk an OSError; others pass."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (_SQLITE_CORRUPT, _SQLITE_NOTADB):
        return Corrupt("the database does not authenticate or is malformed")
    if code == _SQLITE_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """translate() for several statements."""
    try:
        yield
    except sqlcipher.DatabaseError as error:
        raise translate(error) from error


def _is_damaged(path: Path, key: bytes) -> bool:
    """Whether a file that does not open is damaged, rather than one of another key: it is cut, or `key`
    decrypts page 1 to something that is an SQLite header, HMAC aside. Two separate constants are looked for,
    so that no one damaged spot hides both.

    https://www.zetetic.net/sqlcipher/design/ (AES-256-CBC, salt in the first 16 bytes of page 1) and
    https://www.sqlite.org/fileformat.html section 1.3.
    """
    with path.open("rb") as file:
        page = file.read(PAGE_BYTES)
    if len(page) < PAGE_BYTES:
        return True
    iv = page[-_RESERVED_BYTES : -_RESERVED_BYTES + 16]
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    header = bytes(16) + decryptor.update(page[16:112])
    return header[21:24] == b"\x40\x20\x20" or header[72:92] == bytes(20)
