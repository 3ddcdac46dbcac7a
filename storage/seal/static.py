"""A seal key kept in a file beside, for stores that must open by themselves."""

import base64
import binascii
import errno
import os
import stat
from pathlib import Path

from storage.errors import SealUnavailable
from storage.secret import Secret

KEY_BYTES = 32
_FILE_BYTES_MAX = 4096


def read_key_file(path: Path) -> Secret:
    """The key in a file: 32 raw bytes, or 64 hexadecimal digits, or base64, with or without a newline.

    Raises SealUnavailable for what is missing, a symlink, no regular file, open to others, or not a key.
    """
    data = _read_private(path)
    key = _parse(data)
    if key is None:
        raise SealUnavailable(f"{path}: not a key of {KEY_BYTES} bytes (raw, hexadecimal or base64)")
    return Secret(key)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SealUnavailable(f"{path}: a symbolic link is not followed to a seal key") from None
        raise SealUnavailable(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SealUnavailable(f"{path}: not a regular file")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SealUnavailable(f"{path}: open to group or others; chmod 600 it")
        return os.read(descriptor, _FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _parse(data: bytes) -> bytes | None:
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    if len(text) == 2 * KEY_BYTES:
        try:
            return binascii.unhexlify(text)
        except binascii.Error:
            return None
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None
