"""What a region ordered, and the history does not have: set aside, entry by entry, never dropped.

A region that was primary and finds a successor may have acknowledged commands that the successor never received.
Before it takes the successor's state it writes each of them into a view of its own, which every node of the region
keeps. An operator looks at them, writes again what is wanted, and discards the rest.
"""

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from node.auth.fields import rfc3339
from node.engines.kv_writes import place
from node.errors import InvalidRequest, NoQuorum, NotFound
from node.store import Store
from node.view import Item, View, write
from storage import command as c
from storage.rows import Mount

VIEW = "own:divergence"
PARTS = "own:divergence-parts"  # of commands that are too large for one entry, below the entry's name
DONE, NEWEST = "own:divergence-done", "newest"  # which commands were set aside last, all of them
LISTED_MAX = 1_000  # entries of one answer
LISTED_TURN_BYTES = (
    1 << 20
)  # are looked at before others have their turn; an entry counts as ENTRY_BYTES_MIN at least
ENTRY_BYTES_MIN = 4096
STEP_BYTES_MAX, STEP_COMMANDS_MAX = 256 << 10, 256  # that are set aside at once
PART_CHARACTERS_MAX = 512 << 10  # a command has up to twice as many bytes, and a third more in base64

# What a region orders by itself: whoever orders writes does the same, so there is nothing to be written again.
HOUSEKEEPING = (c.EpochBegin, c.TokensExpire, c.EntriesExpire, c.KeyTermAdd)


async def set_aside(store: Store, first: int, epoch: int) -> int:
    """Keep every command from position `first` on; how many there are. Doing it again changes nothing. What is known
    to have been refused did nothing, and is not kept.

    Raises NoQuorum if some are no longer there: what replaces the state must not go on.
    """
    done, whole = View(store, DONE), f"{epoch}-{first}-{store.position}"
    if (item := done.get(NEWEST)) is not None and item.value["whole"] == whole:
        return int(item.value["count"])  # what was forgotten since is not to come back
    position, count = first, 0
    newest: dict[tuple[str, str], str] = {}  # entries by the secret that they wrote
    while position <= store.position:
        commands = store.history(position, STEP_BYTES_MAX)
        if commands is None:
            raise NoQuorum(f"position {position} is no longer kept: this state must not be replaced unseen")
        if not commands:
            break
        commands = commands[:STEP_COMMANDS_MAX]
        entries = [
            await _put(store, _path(epoch, number), request_id, encoded, newest)
            for number, (request_id, encoded) in enumerate(commands, position)
            if store.was_refused(request_id) is not True
        ]
        if entries:
            await write(store, *entries)
        position, count = position + len(commands), count + len(entries)
    await write(store, done.put(NEWEST, {"whole": whole, "count": count}))
    return count


async def _put(
    store: Store, entry: str, request_id: bytes, encoded: bytes, newest: dict[tuple[str, str], str]
) -> c.EntryPut:
    """The command that keeps one; what is too large for it is written before. `newest`: the entries so far, by the
    secret that they wrote.
    """
    kept: dict[str, Any] = {"request_id": request_id.hex()}
    command = c.decode(encoded)
    if isinstance(command, c.KvPut):
        secret = command.mount_id, command.path
        if secret in newest:
            kept["previous"] = newest[secret]
        newest[secret] = entry
        kept["doubtful"] = store.was_refused(request_id) is None and _is_doubtful(store, command)
        encoded = c.encode(_for_any_keyring(store, command))
    text = base64.b64encode(encoded).decode()
    parts = View(store, PARTS)
    ends = range(PART_CHARACTERS_MAX, len(text), PART_CHARACTERS_MAX)
    for number, begin in enumerate(ends, start=1):
        await write(store, parts.put(f"{entry}/{number}", text[begin : begin + PART_CHARACTERS_MAX]))
    kept |= {"command": text[:PART_CHARACTERS_MAX], "parts": len(ends)}
    return View(store, VIEW).put(entry, kept)


def _is_doubtful(store: Store, command: c.KvPut) -> bool:
    """Whether a write, of which it is not remembered what became of it, may have been refused: the version that is here
    is another one, or none.
    """
    key = store.kv_key(command.mount_id, command.path)
    if key is None or command.version > key.current_version:
        return True
    made = store.reads.kv_version(command.mount_id, command.path, command.version)
    return made is not None and made.value is not None and made.value != command.value


def _for_any_keyring(store: Store, command: c.KvPut) -> c.KvPut:
    """The value under a key that the state has, too, which replaces this one: a later term may be as diverged."""
    where = place(command.mount_id, command.path, command.version)
    value = store.seal(where, store.open(where, command.value), lasting=True)
    return msgspec.structs.replace(command, value=value)


async def listed(store: Store, after: str = "", limit: int = LISTED_MAX) -> tuple[list[dict[str, Any]], str]:
    """What was set aside behind `after`, oldest first: where and what, never a value.

    And the last one's id if there are more.
    """
    view = View(store, VIEW)
    told, looked_at = [], 0
    paths = view.scan(after=after, limit=limit + 1)
    for path in paths[:limit]:
        item = view.get(path)
        if item is None:
            continue
        encoded = _encoded(store, path, item)
        told.append(_described(store, path, c.decode(encoded)) | _request(item))
        looked_at += max(len(encoded), ENTRY_BYTES_MIN)
        if looked_at >= LISTED_TURN_BYTES:
            looked_at = 0
            await asyncio.sleep(0)
    return told, paths[limit - 1] if len(paths) > limit else ""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How a written secret is written again: what is asked of the API, and the version that it had."""

    path: str
    body: bytes  # JSON
    version: int


def rewriting(store: Store, entry: str) -> Rewriting | None:
    """None: there is nothing in it that anybody has written. Raises NotFound, InvalidRequest.

    A version rests upon the one before: where that is set aside too, the version of that number in the new history is
    another one, and check-and-set alone would write over it.
    """
    view = View(store, VIEW)
    item = _item(view, entry)
    command, previous = c.decode(_encoded(store, entry, item)), item.value.get("previous")
    if isinstance(command, HOUSEKEEPING):
        return None
    if previous and view.has(previous):
        raise InvalidRequest(
            f"{previous} wrote the same secret before: write that one again first, or discard it, and then this one"
            " takes the place of whatever has that version now"
        )
    if not isinstance(command, c.KvPut):
        raise InvalidRequest(
            "only written secrets can be written again; what else is wanted has to be done anew"
        )
    if item.value.get("doubtful"):
        raise InvalidRequest(
            "it may have been refused when it was sent, or deleted since: its version was not here at the end"
        )
    mount = _mount(store, command.mount_id)
    if mount is None:
        raise InvalidRequest("the mount that it was written to does not exist any more")
    value = store.open(place(command.mount_id, command.path, command.version), command.value)
    if mount.version > 1:
        body = b'{"data":%b,"options":{"cas":%d}}' % (value, command.version - 1)
        return Rewriting(f"{mount.path}data/{command.path}", body, command.version)
    _check_version_1(store, command)
    return Rewriting(f"{mount.path}{command.path}", value, command.version)


def _check_version_1(store: Store, command: c.KvPut) -> None:
    """KV version 1 has no check-and-set: this node asks its own copy of the new history. Raises InvalidRequest."""
    key = store.kv_key(command.mount_id, command.path)
    if (0 if key is None else key.current_version) != command.version - 1:
        raise InvalidRequest("the secret was written, or deleted, in the new history: nothing was written")


async def discard(store: Store, entry: str) -> None:
    """Forget one. Raises NotFound."""
    view = View(store, VIEW)
    _item(view, entry)
    await write(store, view.delete(entry), View(store, PARTS).delete_below(f"{entry}/"))


def _path(epoch: int, position: int) -> str:
    return f"{epoch}-{position:015d}"


def _item(view: View, entry: str) -> Item:
    item = view.get(entry)
    if item is None:
        raise NotFound(f"no entry {entry} is set aside here: `region divergence` lists those that are")
    return item


def _encoded(store: Store, entry: str, item: Item) -> bytes:
    """The command of an entry, put together again."""
    value, parts = item.value, View(store, PARTS)
    text = value["command"]
    for number in range(1, value.get("parts", 0) + 1):
        text += _item(parts, f"{entry}/{number}").value
    return base64.b64decode(text)


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
    return next((each for each in store.mounts() if each.mount_id == mount_id), None)
