"""The sealed root key as the whole cluster knows it: which file is in force, and how a node comes by a newer one.

A rekey writes the new file into the store, where it is in force once it is committed. Every node keeps the newest
that it has applied as its own seal.json, within a second. A node that was down opens with the shares of the file
that it has, and learns the newer one when it has caught up: `generation` says which is which.
"""

from typing import Protocol

from node.errors import InvalidRequest
from node.store import Store
from node.view import View
from storage.errors import InvalidShare, StorageError
from storage.keyring import RootKey
from storage.seal import SealFile, SealType, Unsealer

VIEW = "own:seals"
SEAL = "seal"  # what opens a node
RECOVERY = "recovery"  # what people prove themselves with where a key file opens the nodes
ANSWER = "answer"  # what the last rekey answered, for a while: the answer may not have reached anybody
BACKUP = "backup"  # shares of the last rekey, encrypted for their holders, if it was asked for

NO_PEOPLE = "a key file opens this store, and it was initialised without recovery keys: there are no shares to ask for"


class Keeper(Protocol):
    """Who has the seal's file on disk; the lifecycles are two."""

    @property
    def seal_file(self) -> SealFile: ...
    async def adopt_seal(self, file: SealFile) -> None: ...


def recorded(store: Store, name: str) -> SealFile | None:
    """The file that the store holds under a name; None if nothing was ever rekeyed."""
    item = View(store, VIEW).get(name)
    return SealFile.parse(item.value) if item is not None else None


def revision(store: Store, name: str) -> int:
    """What a write of that file must expect; 0 where there is none."""
    entry = store.reads.entry(VIEW, name)
    return entry.revision if entry is not None else 0


def in_force(store: Store, keeper: Keeper) -> SealFile:
    """What opens a node that is up to date."""
    return recorded(store, SEAL) or keeper.seal_file


def authority(store: Store, keeper: Keeper) -> SealFile:
    """What the shares of people open: the seal, or the recovery keys of a store that a key file opens.

    Raises InvalidRequest if there are none.
    """
    seal = in_force(store, keeper)
    if seal.type is SealType.SHAMIR:
        return seal
    recovery = recorded(store, RECOVERY)
    if recovery is None:
        raise InvalidRequest(NO_PEOPLE)
    return recovery


async def follow(store: Store, keeper: Keeper) -> None:
    """Keep the newest file that this node has applied, if the one on disk is older."""
    newest = recorded(store, SEAL)
    if newest is not None and newest.generation > keeper.seal_file.generation:
        await keeper.adopt_seal(newest)


def offer(unsealer: Unsealer, share: str, *, wrong: str) -> RootKey | None:
    """One more share: the root key when it was the last one needed. Raises InvalidRequest; `wrong` begins its text."""
    try:
        return unsealer.offer(share)
    except InvalidShare as error:
        raise InvalidRequest(str(error)) from None
    except StorageError as error:
        raise InvalidRequest(f"{wrong}: {error}") from None
