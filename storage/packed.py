"""Current values of very many keys, packed and sealed: what a read asks first that is not among the decrypted ones.

A row of the database costs five lookups in three tables, and the decryption of every page that is not in memory. Here a
value takes little more than its own bytes, under a key that only this object has: no plaintext is kept. Whoever touches
a key forgets it here, as in the cache of decrypted values (cache.py), which this one belongs to.
"""

import struct
from itertools import islice

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.rows import KvVersion

SHARDS = 64  # a power of two: tables so small that none takes long to grow
EVICTED_FRACTION = 8  # of a shard, at a time
PATH_CHARACTERS_MAX = 512  # of what is kept
VALUE_BYTES_MAX = 4096  # larger ones are few, and the database is quick enough for them
RECORD_OVERHEAD_BYTES = 120  # what Python needs for a record beside its bytes, roughly

_HEAD = struct.Struct("<QQQH")  # version, created_ns, deletion_ns, the length of the custom metadata
_COUNTER = struct.Struct("<Q")
_NONCE_TAIL = bytes(4)
_KEY_BITS = 256
_PLACE_MASK = 2**60 - 1  # numbers of two digits, as Python counts them, take the least memory

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


class PackedCache:
    """Values by (mount id, path), bounded in bytes; those that came first go first, roughly.

    A place is remembered by its hash alone, and bound to its record as associated data: where two places share a hash
    one of them is not here.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._mounts: dict[str, str] = {}  # how the places of a mount begin
        self.cleared = 0  # how often: whoever fills it begins anew
        self._begin()

    def _begin(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))
        self._sealed = 0  # values so far: each has a nonce of its own, and no process lives to see them end
        self._shards: list[dict[int, bytes]] = [{} for _ in range(SHARDS)]
        self._evicts_next = 0  # which shard
        self.size_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._shards))

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
        place = mount + path
        number = hash(place) & _PLACE_MASK
        record = self._shards[number % SHARDS].get(number)
        return None if record is None else self._opened(place, record)

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
        place = mount + path
        plaintext = _HEAD.pack(row.version, row.created_ns, row.deletion_ns, len(custom)) + custom + value
        counter = _COUNTER.pack(self._sealed)
        self._sealed += 1
        record = counter + self._cipher.encrypt(counter + _NONCE_TAIL, plaintext, place.encode())
        self._remove(place)
        number = hash(place) & _PLACE_MASK
        self._shards[number % SHARDS][number] = record
        self.size_bytes += _size(record)
        while self.size_bytes > self._bytes_max:
            self._evict()

    def forget(self, mount_id: str, path: str) -> None:
        """The key was touched."""
        mount = self._mounts.get(mount_id)
        if mount is not None:
            self._remove(mount + path)

    def clear(self) -> None:
        """Forget everything."""
        self.cleared += 1
        self._mounts.clear()
        self._begin()

    def close(self) -> None:
        """Forget everything, and keep nothing from now on."""
        self._bytes_max = 0
        self.clear()

    def _opened(self, place: str, record: bytes) -> tuple[KvVersion, bytes] | None:
        counter = record[: _COUNTER.size]
        try:
            plaintext = self._cipher.decrypt(counter + _NONCE_TAIL, record[_COUNTER.size :], place.encode())
        except InvalidTag:  # it is of another place with the same hash
            return None
        version, created_ns, deletion_ns, length = _HEAD.unpack_from(plaintext)
        start = _HEAD.size + length
        custom = _decode(plaintext[_HEAD.size : start]) if length else None
        return KvVersion(version, created_ns, deletion_ns, False, None, custom), plaintext[start:]

    def _remove(self, place: str) -> None:
        number = hash(place) & _PLACE_MASK
        record = self._shards[number % SHARDS].pop(number, None)
        if record is not None:
            self.size_bytes -= _size(record)

    def _evict(self) -> None:
        """What came first to one shard goes; shards take turns."""
        shard = self._shards[self._evicts_next]
        self._evicts_next = (self._evicts_next + 1) % SHARDS
        for number in list(islice(shard, -(-len(shard) // EVICTED_FRACTION))):
            self.size_bytes -= _size(shard.pop(number))


def _size(record: bytes) -> int:
    return len(record) + RECORD_OVERHEAD_BYTES
