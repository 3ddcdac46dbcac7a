"""Current values of very many keys, packed and sealed: what a read asks first that is not among the decrypted ones.

A row of the database costs five lookups in three tables, and the decryption of every page that is not in memory. Here a
value takes little more than its own bytes, under a key that only this object has: no plaintext is kept. Whoever touches
a key forgets it here, as in the cache of decrypted values (cache.py), which this one belongs to.
"""

import struct

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.rows import KvVersion

GENERATIONS = 8
PATH_CHARACTERS_MAX = 512  # of what is kept
VALUE_BYTES_MAX = 4096  # larger ones are few, and the database is quick enough for them
RECORD_OVERHEAD_BYTES = 150  # what Python needs for a record beside its bytes and its path, roughly

_HEAD = struct.Struct("<QQQH")  # version, created_ns, deletion_ns, the length of the custom metadata
_COUNTER = struct.Struct("<Q")
_NONCE_TAIL = bytes(4)
_KEY_BITS = 256

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


class PackedCache:
    """Values by (mount id, path), bounded in bytes; those that came first go first, an eighth of all at a time."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))
        self._sealed = 0  # values so far: each has a nonce of its own, and no process lives to see them end
        self._mounts: dict[str, str] = {}  # how the keys of a mount begin
        self._generations: list[dict[str, bytes]] = [{}]  # the newest first
        self._sizes: list[int] = [0]
        self.size_bytes = 0
        self.cleared = 0  # how often: whoever fills it begins anew

    def __len__(self) -> int:
        return sum(map(len, self._generations))

    def __repr__(self) -> str:
        return f"PackedCache({len(self)} values, {self.size_bytes} bytes)"

    @property
    def is_filling(self) -> bool:
        """Whether there is room for more without anything having to go."""
        return self.size_bytes < self._bytes_max - self._bytes_max // 64

    def get(self, mount_id: str, path: str) -> tuple[KvVersion, bytes] | None:
        """The current version, its row without its value, and the plaintext of that; its deletion may have come."""
        mount = self._mounts.get(mount_id)
        if mount is None:
            return None
        key = mount + path
        for generation in self._generations:
            record = generation.get(key)
            if record is not None:
                return self._opened(key, record)
        return None

    def put(self, mount_id: str, path: str, row: KvVersion, value: bytes) -> None:
        """Keep the current version of a key as the database holds it now, if it is small enough."""
        if len(value) > VALUE_BYTES_MAX or len(path) > PATH_CHARACTERS_MAX or self._bytes_max <= 0:
            return
        custom = b"" if row.custom_metadata is None else _encode(row.custom_metadata)
        if len(custom) > VALUE_BYTES_MAX:
            return
        mount = self._mounts.get(mount_id)
        if mount is None:
            mount = self._mounts[mount_id] = f"{len(self._mounts)}:"
        key = mount + path
        plaintext = _HEAD.pack(row.version, row.created_ns, row.deletion_ns, len(custom)) + custom + value
        counter = _COUNTER.pack(self._sealed)
        self._sealed += 1
        record = counter + self._cipher.encrypt(counter + _NONCE_TAIL, plaintext, key.encode())
        self._remove(key)
        self._add(key, record)

    def forget(self, mount_id: str, path: str) -> None:
        """The key was touched."""
        mount = self._mounts.get(mount_id)
        if mount is not None:
            self._remove(mount + path)

    def clear(self) -> None:
        """Forget everything."""
        self.cleared += 1
        self._mounts.clear()
        self._generations, self._sizes, self.size_bytes = [{}], [0], 0
        self._cipher, self._sealed = AESGCM(AESGCM.generate_key(_KEY_BITS)), 0

    def close(self) -> None:
        """Forget everything, and keep nothing from now on."""
        self._bytes_max = 0
        self.clear()

    def _opened(self, key: str, record: bytes) -> tuple[KvVersion, bytes]:
        counter = record[: _COUNTER.size]
        plaintext = self._cipher.decrypt(counter + _NONCE_TAIL, record[_COUNTER.size :], key.encode())
        version, created_ns, deletion_ns, length = _HEAD.unpack_from(plaintext)
        start = _HEAD.size + length
        custom = _decode(plaintext[_HEAD.size : start]) if length else None
        return KvVersion(version, created_ns, deletion_ns, False, None, custom), plaintext[start:]

    def _add(self, key: str, record: bytes) -> None:
        if self._sizes[0] > self._bytes_max // GENERATIONS:
            self._generations.insert(0, {})
            self._sizes.insert(0, 0)
        size_bytes = _size(key, record)
        self._generations[0][key] = record
        self._sizes[0] += size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._bytes_max:
            self._generations.pop()
            self.size_bytes -= self._sizes.pop()
            if not self._generations:
                self._generations, self._sizes = [{}], [0]

    def _remove(self, key: str) -> None:
        for number, generation in enumerate(self._generations):
            record = generation.pop(key, None)
            if record is not None:
                size_bytes = _size(key, record)
                self._sizes[number] -= size_bytes
                self.size_bytes -= size_bytes


def _size(key: str, record: bytes) -> int:
    return len(key) + len(record) + RECORD_OVERHEAD_BYTES
