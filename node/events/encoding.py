"""From an event to the bytes that every subscriber of a kind gets: CloudEvents in JSON, in SSE or WebSocket frames.

SSE: https://html.spec.whatwg.org/multipage/server-sent-events.html, in chunks of RFC 9112. WebSocket: RFC 6455.
CloudEvents 1.0: https://github.com/cloudevents/spec; the members are those of Vault's event notifications.
"""

import hashlib
from typing import Any

import msgspec

from node.auth.fields import rfc3339
from node.events.cursor import Cursor
from node.events.happened import EXPIRED, Event

REREAD = "sys/events/reread"
SPECIFICATION = "1.0"
CONTENT_TYPE = "application/cloudevents"
_FIN_TEXT = b"\x81"
PING = b"\x89\x00"
_SHORT_BYTES_MAX = 125
_LONG_BYTES_MAX = 0xFFFF

_encode = msgspec.json.Encoder().encode


def facts(event: Event) -> dict[str, str]:
    """What filters look at."""
    return {
        "event_type": event.type,
        "operation": event.operation,
        "source_plugin_mount": event.mount.path,
        "data_path": event.data_path,
        "path": event.path,
        "namespace": "",
    }


def cloud_event(event: Event, cursor: Cursor, oldest_version: int, current_version: int) -> bytes:
    """One event as JSON. The versions are those of the key; 0 where there are none."""
    metadata = {
        "data_path": event.data_path,
        "modified": "true",
        "operation": event.operation,
        "path": event.path,
        "vault_index": str(cursor),
    }
    if event.mount.version != 1 and event.name:
        metadata["current_version"] = str(event.version or current_version)
        metadata["oldest_version"] = str(oldest_version)
    if event.operation == EXPIRED:
        metadata["current_version"] = str(current_version)
        metadata["expired_versions"] = f"[{event.version}]"
    elif event.versions:
        name = {"delete": "deleted", "undelete": "undeleted", "destroy": "destroyed"}[event.operation]
        metadata[f"{name}_versions"] = _encode(event.versions).decode()
    return _cloud_event(
        cursor.cluster,
        _identity(cursor.cluster, event),
        event.type,
        event.time_ns,
        metadata,
        plugin_info={
            "mount_class": "secret",
            "mount_accessor": event.mount.accessor,
            "mount_path": event.mount.path,
            "plugin": event.mount.kind,
            "version": str(event.mount.version),
        },
    )


def reread(cursor: Cursor, time_ns: int, reason: str) -> bytes:
    """The event that says: something may have happened that you are not told of; read again what you depend on."""
    name = f"reread {cursor.position} {time_ns} {reason}"
    metadata = {"modified": "true", "operation": "reread", "reason": reason, "vault_index": str(cursor)}
    return _cloud_event(cursor.cluster, _uuid(f"{cursor.cluster} {name}"), REREAD, time_ns, metadata)


def _cloud_event(
    cluster: str, identity: str, kind: str, time_ns: int, metadata: dict[str, str], **more: Any
) -> bytes:
    return _encode(
        {
            "id": identity,
            "source": f"urn:strongroom:{cluster}",
            "specversion": SPECIFICATION,
            "type": kind,
            "data": {
                "event": {"id": identity, "metadata": metadata},
                "event_type": kind,
                "namespace": "",
                **more,
            },
            "datacontenttype": CONTENT_TYPE,
            "time": rfc3339(time_ns),
        }
    )


def _identity(cluster: str, event: Event) -> str:
    """The same on every node: whoever is told twice can know it."""
    if event.operation == EXPIRED:
        return _uuid(f"{cluster} expired {event.mount.mount_id} {event.version} {event.time_ns} {event.name}")
    return _uuid(f"{cluster} {event.position} {event.nth}")


def _uuid(name: str) -> str:
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


# --- frames ---


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(document: bytes, cursor: Cursor, name: str = "") -> bytes:
    """An event of a stream; JSON holds no line break."""
    named = f"event: {name}\n" if name else ""
    return chunk(f"{named}id: {cursor}\ndata: ".encode() + document + b"\n\n")


def sse_heartbeat(cursor: Cursor | None) -> bytes:
    """Nothing happened until here: a client keeps the id, if there is one, and shows nothing."""
    return chunk(b": ping\n\n" if cursor is None else f": ping\nid: {cursor}\n\n".encode())


def sse_end(reason: str) -> bytes:
    return b"event: end\ndata: " + _encode({"reason": reason}) + b"\n\n"


def text_frame(document: bytes) -> bytes:
    """A WebSocket message of a server: one frame, not masked."""
    size = len(document)
    if size <= _SHORT_BYTES_MAX:
        head = bytes((size,))
    elif size <= _LONG_BYTES_MAX:
        head = b"\x7e" + size.to_bytes(2, "big")
    else:
        head = b"\x7f" + size.to_bytes(8, "big")
    return _FIN_TEXT + head + document
