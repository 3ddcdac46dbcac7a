"""How a version is found: decrypted in memory, packed in memory, or in the database; and how answers describe it."""

from typing import Any

from node.auth.fields import rfc3339
from node.engines.kv_writes import place
from node.errors import NotFound
from node.store import Store
from storage.cache import CachedValue
from storage.rows import KvVersion


def find(store: Store, mount_id: str, path: str, version: int) -> CachedValue | KvVersion:
    """A version (0: the current one) with its value, or its row if there is nothing to read. Raises NotFound."""
    found = store.values.get(mount_id, path, version)
    if found is not None and not found.row.is_deleted(store.now_ns()):
        return found
    packed = None if version else store.values.packed.get(mount_id, path)
    if packed is None:
        row = store.reads.kv_version(mount_id, path, version)
        if row is None:
            raise NotFound
        if row.value is None or row.is_deleted(store.now_ns()):
            return row
        plaintext = store.open(place(mount_id, path, row.version), row.value)
        row = row.without_value()
        if not version:
            store.values.packed.put(mount_id, path, row, plaintext)
    else:
        row, plaintext = packed
        if row.is_deleted(store.now_ns()):
            return row
    fresh = CachedValue(row, plaintext)
    store.values.put(mount_id, path, version, fresh)
    return fresh


def version_metadata(version: KvVersion) -> dict[str, Any]:
    """A version's metadata as it stands in answers."""
    return metadata(
        version.version, version.created_ns, version.deletion_ns, version.destroyed, version.custom_metadata
    )


def metadata(
    version: int,
    created_ns: int,
    deletion_ns: int,
    destroyed: bool,
    custom_metadata: dict[str, str] | None,
) -> dict[str, Any]:
    """The same from its parts; times in nanoseconds since 1970, 0 for none."""
    return {
        "created_time": rfc3339(created_ns),
        "custom_metadata": custom_metadata,
        "deletion_time": rfc3339(deletion_ns) if deletion_ns else "",
        "destroyed": destroyed,
        "version": version,
    }
