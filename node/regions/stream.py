"""What travels between regions: commands of the history in order, and how far each side is.

A region that follows asks for what comes after its position, and says which epoch is in force there; any node of the
region that orders writes answers, at once if it has something, else when it has or after a while. A question lost or
asked twice does no harm: the state machine takes exactly the next position.
"""

import time
import zlib
from typing import Literal

import msgspec

from consensus.api import COMMAND_BYTES_MAX
from node.store import Store
from storage.rows import Epoch

PULL_WAIT_S = 1.0  # how long a question waits for something new
PULL_BYTES_MAX = 512 << 10
COMPRESSION_LEVEL = 1
BATCH_BYTES_MAX = PULL_BYTES_MAX + COMMAND_BYTES_MAX + (64 << 10)

Verdict = Literal["ok", "diverged", "gone", "behind", "superseded"]


class Standing(msgspec.Struct, frozen=True):
    """Where a region is, as it says itself."""

    region: str
    role: str
    epoch: int
    epoch_region: str
    position: int
    time_ns: int = 0
    level: int = 1  # the feature level: whose commands a region can be sent
    endpoints: tuple[str, ...] = ()  # of its nodes
    links: tuple[str, ...] = ()


class Question(msgspec.Struct, frozen=True):
    """What a region that follows asks."""

    standing: Standing
    wait_s: float = PULL_WAIT_S


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What it is answered. commands begin at the asker's position + 1.

    "diverged": the asker has commands that are no part of the history; the first position that differs is `at`.
    "gone": what it needs is no longer kept. "behind": the node that answers has not caught up with its own region.
    "superseded": the asker knows a newer epoch than the one that answers.
    """

    verdict: Verdict
    standing: Standing
    at: int = 0
    commands: tuple[tuple[bytes, bytes], ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Batch)


def pack(batch: Batch) -> bytes:
    return zlib.compress(_encode(batch), COMPRESSION_LEVEL)


def unpack(data: bytes) -> Batch:
    """Raises ValueError for anything that pack() did not make, a bomb included."""
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(data, BATCH_BYTES_MAX)
        if not inflater.eof:
            raise ValueError("a batch is too long, or cut")
        return _decoder.decode(raw)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError("a batch does not decode") from error


def standing(store: Store) -> Standing:
    """Where this node's state is."""
    name, role = store.reads.region()
    epochs = store.reads.epochs()
    newest = epochs[-1] if epochs else Epoch(0, "", 0)
    nodes = store.reads.nodes()
    return Standing(
        region=name,
        role=role,
        epoch=newest.epoch,
        epoch_region=newest.region,
        position=store.position,
        time_ns=time.time_ns(),
        level=store.level,
        endpoints=tuple(each.api_address for each in nodes),
        links=tuple(each.link_address for each in nodes if each.link_address),
    )


def judge(epochs: list[Epoch], position: int, asker: Standing) -> tuple[Verdict, int]:
    """Whether the asker's history is the beginning of ours: histories agree as far as their epochs do."""
    newest = epochs[-1].epoch if epochs else 0
    if asker.epoch > newest:
        return "superseded", 0
    index = next((i for i, each in enumerate(epochs) if each.epoch == asker.epoch), None)
    if index is None or epochs[index].region != asker.epoch_region:
        return "diverged", epochs[index].position if index is not None else 1
    if index + 1 < len(epochs) and asker.position >= epochs[index + 1].position:
        return "diverged", epochs[index + 1].position
    if index + 1 == len(epochs) and asker.position > position:
        return "behind", 0
    return "ok", 0


def answer(store: Store, asker: Standing) -> Batch:
    """What a region that asks gets now."""
    own = standing(store)
    verdict, at = judge(store.reads.epochs(), own.position, asker)
    if verdict != "ok":
        return Batch(verdict, own, at)
    commands = store.history(asker.position + 1, PULL_BYTES_MAX)
    return Batch("gone", own) if commands is None else Batch("ok", own, 0, tuple(commands))
