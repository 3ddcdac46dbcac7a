"""Reads a SQLCipher 4 database file (and its log) page by page, deleted content included, without SQLite."""

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PAGE_BYTES = 4096
RESERVED_BYTES = 80  # IV of 16 bytes and HMAC-SHA512
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24


def plain_pages(path: Path, key: bytes) -> Iterator[bytes]:
    """Every page of the file, then of its write-ahead log, decrypted."""
    data = path.read_bytes()
    for start in range(0, len(data), PAGE_BYTES):
        page = data[start : start + PAGE_BYTES]
        yield _decrypt(page, key, skip=16 if start == 0 else 0)
    log = path.with_name(path.name + "-wal")
    if log.exists():
        frames = log.read_bytes()[_WAL_HEADER_BYTES:]
        for start in range(0, len(frames), _FRAME_HEADER_BYTES + PAGE_BYTES):
            number = int.from_bytes(frames[start : start + 4], "big")
            page = frames[start + _FRAME_HEADER_BYTES :][:PAGE_BYTES]
            yield _decrypt(page, key, skip=16 if number == 1 else 0)


def _decrypt(page: bytes, key: bytes, *, skip: int) -> bytes:
    end = PAGE_BYTES - RESERVED_BYTES
    decryptor = Cipher(algorithms.AES(key), modes.CBC(page[end : end + 16])).decryptor()
    return decryptor.update(page[skip:end])
