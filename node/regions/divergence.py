"""What a region ordered, and the history does not have: set aside, entry by entry, never dropped.

A region that was primary and finds a successor may have acknowledged commands that the successor never received.
Before it takes the successor's state it writes each of them into a view of its own, which every node of the region
keeps. An operator looks at them, writes again what is wanted, and discards the rest.
"""

import base64
from typing import Any

from node.auth.fields import rfc3339
from node.engines.kv_writes import place
from node.errors import InvalidRequest, NoQuorum, NotFound
from node.store import Store
from node.view import Item, View, write
from storage import command as c
from storage.rows import Mount

VIEW = "own:divergence"
LISTED_MAX = 1_000  # entries of one answer
STEP_BYTES_MAX, STEP_COMMANDS_MAX = 256 << 10, 256  # that are set aside at once


async def set_aside(store: Store, first: int, epoch: int) -> int:
    """Keep every command from position `first` on; how many there are. Doing it again changes nothing.

    Raises NoQuorum if some are no longer kept: what replaces the state must not go on.
    """
    view, position = View(store, VIEW), first
    newest: dict[tuple[str, str], str] = {}  # entries by the secret that they wrote
    while position <= store.position:
        commands = store.history(position, STEP_BYTES_MAX)
        if commands is None:
            raise NoQuorum(f"position {position} is no longer kept: this state must not be replaced unseen")
        if not commands:
            break
        commands = commands[:STEP_COMMANDS_MAX]
        entries = [
            view.put(_path(epoch, number), _kept(_path(epoch, number), *each, newest))
            for number, each in enumerate(commands, position)
        ]
        await write(store, *entries)
        position += len(entries)
    return position - first


def _kept(
    entry: str, request_id: bytes, encoded: bytes, newest: dict[tuple[str, str], str]
) -> dict[str, str]:
    """What is written of a command; `previous` is the one that wrote the same secret before."""
    kept = {"command": base64.b64encode(encoded).decode(), "request_id": request_id.hex()}
    command = c.decode(encoded)
    if isinstance(command, c.KvPut):
        secret = command.mount_id, command.path
        if secret in newest:
            kept["previous"] = newest[secret]
        newest[secret] = entry
    return kept


def listed(store: Store, after: str = "", limit: int = LISTED_MAX) -> tuple[list[dict[str, Any]], str]:
    """What was set aside behind `after`, oldest first: where and what, never a value.

    And the last one's id if there are more.
    """
    view = View(store, VIEW)
    told = []
    paths = view.scan(after=after, limit=limit + 1)
    for path in paths[:limit]:
        item = view.get(path)
        if item is not None:
            told.append(_described(store, path, _decoded(item)) | _request(item))
    return told, paths[limit - 1] if len(paths) > limit else ""


def rewritten(store: Store, entry: str) -> tuple[str, bytes, int]:
    """(API path, value as JSON text, version it had) of a written secret. Raises NotFound, InvalidRequest.

    A version rests upon the one before: where that is set aside too, the version of that number in the new history is
    another one, and check-and-set alone would write over it.
    """
    view = View(store, VIEW)
    item = _item(view, entry)
    command, previous = _decoded(item), item.value.get("previous")
    if previous and view.has(previous):
        raise InvalidRequest(
            f"{previous} wrote the same secret before: write that one again first, or discard it, and then this one"
            " takes the place of whatever has that version now"
        )
    if not isinstance(command, c.KvPut):
        raise InvalidRequest(
            "only written secrets can be written again; what else is wanted has to be done anew"
        )
    mount = _mount(store, command.mount_id)
    if mount is None:
        raise InvalidRequest("the mount that it was written to does not exist any more")
    value = store.open(place(command.mount_id, command.path, command.version), command.value)
    infix = "data/" if mount.version > 1 else ""
    return f"{mount.path}{infix}{command.path}", value, command.version


async def discard(store: Store, entry: str) -> None:
    """Forget one. Raises NotFound."""
    view = View(store, VIEW)
    _item(view, entry)
    await write(store, view.delete(entry))


def _path(epoch: int, position: int) -> str:
    return f"{epoch}-{position:015d}"


def _item(view: View, entry: str) -> Item:
    item = view.get(entry)
    if item is None:
        raise NotFound(f"no entry {entry} is set aside here: `region divergence` lists those that are")
    return item


def _decoded(item: Item) -> c.AnyCommand:
    return c.decode(base64.b64decode(item.value["command"]))


def _request(item: Item) -> dict[str, str]:
    """The identity under which the command was applied; entries of before it was kept have none."""
    return {"request_id": item.value.get("request_id", "")}


def _described(store: Store, path: str, command: c.AnyCommand) -> dict[str, Any]:
    epoch, _, position = path.partition("-")
    told: dict[str, Any] = {
        "id": path,
        "epoch": int(epoch),
        "position": int(position),
        "time": rfc3339(command.time_ns),
        "time_ns": command.time_ns,
        "kind": type(command).__name__,
    }
    if isinstance(
        command, c.KvPut | c.KvDelete | c.KvUndelete | c.KvDestroy | c.KvMetadataPut | c.KvMetadataDelete
    ):
        mount = _mount(store, command.mount_id)
        told |= {"mount": mount.path if mount is not None else None, "path": command.path}
    if isinstance(command, c.KvPut):
        told["version"] = command.version
    if isinstance(command, c.EntryPut | c.EntryDelete):
        mount = _mount(store, command.view)
        told |= {"mount": mount.path if mount is not None else command.view, "path": command.path}
    if isinstance(command, c.PolicyPut | c.PolicyDelete):
        told["name"] = command.name
    if isinstance(command, c.Batch):
        told["kinds"] = [type(c.decode(each)).__name__ for each in command.commands]
    if isinstance(command, c.TokenPut):
        told |= {"accessor": command.accessor, "display_name": command.display_name}
    return told


def _mount(store: Store, mount_id: str) -> Mount | None:
    return next((each for each in store.reads.mounts() if each.mount_id == mount_id), None)
