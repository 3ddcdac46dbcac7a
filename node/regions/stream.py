"""What travels between regions: commands of the history in order, and how far each side is.

A region that follows asks once for what comes after its position, and says which epoch is in force there; any node of
the region that orders writes answers with batch after batch, each as soon as there is something, so that nothing waits
for a question to cross the ocean. A stream that breaks off, or a batch that comes twice, does no harm: the state
machine takes exactly the next position.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import takewhile
from typing import Literal

import msgspec

from consensus.api import COMMAND_BYTES_MAX
from node.errors import NoQuorum
from node.regions.throttle import Throttle
from node.store import Store
from storage.rows import Epoch

CONFIRM_S_MAX = 1.0  # for a quorum to say that this node is up to date
# When there is nothing new, an empty batch says so; how often regions are asked where they are.
HEARTBEAT_S = 0.25
STREAM_S_MAX = 300.0  # then it is asked for anew, of the node that is preferred by then
PULL_BYTES_MAX = 512 << 10  # of commands in a batch
COMPRESSION_LEVEL = 1
SMALL_BYTES_MAX, SMALL_WINDOW_BITS, SMALL_MEMORY_LEVEL = (
    4096,
    12,
    4,
)  # most of the time goes into memory to begin with
BATCH_BYTES_MAX = PULL_BYTES_MAX + COMMAND_BYTES_MAX + (64 << 10)
_LENGTH_BYTES = 4

Rank = tuple[int, str]  # an epoch and who began it: of two that were begun at once, the later name prevails
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
    in_touch: bool = True  # False: who answers is cut off from its region, whose position may be far ahead
    lag_s: float | None = None  # how far it is behind the one that orders writes, as it knows itself

    @property
    def rank(self) -> Rank:
        """What is ordered in a lower one is refused by whoever knows a higher one."""
        return self.epoch, self.epoch_region


class Question(msgspec.Struct, frozen=True):
    """What a region that follows asks."""

    standing: Standing
    epochs: tuple[Epoch, ...] = ()  # all of the asker's


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What it is answered, again and again. commands begin at position `first`.

    "diverged": the asker has commands that are no part of the history; the first position that differs is `at`.
    "gone": what it needs is no longer kept. "behind": the node that answers has not caught up with its own region.
    "superseded": the asker knows an epoch that prevails over that of the one that answers.
    """

    verdict: Verdict
    standing: Standing
    at: int = 0
    commands: tuple[tuple[bytes, bytes], ...] = ()
    first: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Batch)


def pack(batch: Batch) -> bytes:
    encoded = _encode(batch)
    if len(encoded) > SMALL_BYTES_MAX:
        return zlib.compress(encoded, COMPRESSION_LEVEL)
    deflater = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, SMALL_WINDOW_BITS, SMALL_MEMORY_LEVEL)
    return deflater.compress(encoded) + deflater.flush()


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


def framed(batch: Batch) -> bytes:
    """A batch as a stream carries it: behind its length."""
    packed = pack(batch)
    return len(packed).to_bytes(_LENGTH_BYTES, "big") + packed


class Frames:
    """Batches out of the bytes of a stream, however they are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def take(self, data: bytes) -> Iterator[Batch]:
        """The batches that are complete now. Raises ValueError for what framed() did not make."""
        self._rest += data
        while len(self._rest) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._rest[:_LENGTH_BYTES], "big")
            if end > BATCH_BYTES_MAX:
                raise ValueError("a batch is too long, or something else")
            if len(self._rest) < end:
                return
            packed = bytes(self._rest[_LENGTH_BYTES:end])
            del self._rest[:end]
            yield unpack(packed)


def joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same with as few batches: each is one entry of the asker's own log."""
    held: Batch | None = None
    size = 0
    for batch in batches:
        size += sum(len(command) for _, command in batch.commands)
        follows = held is not None and batch.first == held.first + len(held.commands)
        if held is not None and follows and held.commands and batch.commands and size <= PULL_BYTES_MAX:
            held = msgspec.structs.replace(batch, first=held.first, commands=held.commands + batch.commands)
            continue
        if held is not None:
            yield held
        held, size = batch, sum(len(command) for _, command in batch.commands)
    if held is not None:
        yield held


def standing(store: Store) -> Standing:
    """Where this node's state is."""
    name, role = store.region()
    epochs = store.epochs()
    newest = epochs[-1] if epochs else Epoch(0, "", 0)
    nodes = store.nodes()
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


def judge(
    epochs: list[Epoch], position: int, asker: Standing, theirs: tuple[Epoch, ...] = ()
) -> tuple[Verdict, int]:
    """Whether the asker's history is the beginning of ours: two agree up to the first epoch in which they differ.

    `theirs`: the asker's epochs, () from a release that did not tell them.
    """
    newest = (epochs[-1].epoch, epochs[-1].region) if epochs else (0, "")
    if asker.rank > newest:
        return "superseded", 0
    theirs = theirs or _presumed(epochs, asker)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(epochs, theirs, strict=False)))
    begins = [each.position for each in (*epochs[shared : shared + 1], *theirs[shared : shared + 1])]
    if shared < len(theirs) or (begins and asker.position >= begins[0]):
        return "diverged", min(begins, default=1)
    if not begins and asker.position > position:
        return "behind", 0
    return "ok", 0


def _presumed(epochs: list[Epoch], asker: Standing) -> tuple[Epoch, ...]:
    """Ours up to the asker's newest, which began where ours of that number did, whoever began it."""
    known = [each for each in epochs if each.epoch <= asker.epoch]
    if known and known[-1].epoch == asker.epoch:
        known[-1] = Epoch(asker.epoch, asker.epoch_region, known[-1].position)
    return tuple(known)


def answer(store: Store, question: Question) -> Batch:
    """What a region that asks gets now."""
    own, asker = standing(store), question.standing
    verdict, at = judge(store.epochs(), own.position, asker, question.epochs)
    if verdict != "ok":
        return Batch(verdict, own, at)
    commands = store.history(asker.position + 1, PULL_BYTES_MAX)
    if commands is None:
        return Batch("gone", own)
    return Batch("ok", own, 0, tuple(commands), asker.position + 1)


async def confirmed(store: Store) -> Standing:
    """Where the region is, and whether this node knows."""
    in_touch = True
    try:
        async with asyncio.timeout(CONFIRM_S_MAX):
            await store.fresh()
    except (NoQuorum, TimeoutError):
        in_touch = False
    return msgspec.structs.replace(standing(store), in_touch=in_touch)


async def answers(store: Store, question: Question, throttle: Throttle) -> AsyncIterator[bytes]:
    """Framed batches as this node's state grows, in pieces, until one ends the conversation or STREAM_S_MAX are over.

    While a batch waits for its turn the next one grows, so what is sent is never more than one batch behind.
    """
    ends = time.monotonic() + STREAM_S_MAX
    batch: Batch | None = answer(store, question)
    while time.monotonic() < ends:
        if batch is None or (batch.verdict in ("ok", "behind") and not batch.commands):
            await store.wait_for(question.standing.position + 1, HEARTBEAT_S)
            batch = answer(store, question)
        if batch.verdict == "ok" and not batch.commands:
            batch = msgspec.structs.replace(batch, standing=await confirmed(store))
        if batch.verdict == "ok":
            question = _after(store, question, len(batch.commands))  # before this node's own state can change
        data = framed(batch)
        for start in range(0, len(data), throttle.slice_bytes):
            piece = data[start : start + throttle.slice_bytes]
            await throttle.let_pass(len(piece))
            yield piece
        registered = any(each.name == question.standing.region for each in store.regions())
        if batch.verdict != "ok" or not registered:
            return  # a region that was removed has just been sent its removal
        batch = answer(store, question) if store.position > question.standing.position else None


def _after(store: Store, question: Question, count: int) -> Question:
    """What the asker would ask once it has taken so many more commands of this history."""
    position = question.standing.position + count
    held = tuple(each for each in store.epochs() if each.position <= position)
    if count == 0 or not held:
        return question
    newest = held[-1]
    standing = msgspec.structs.replace(
        question.standing, position=position, epoch=newest.epoch, epoch_region=newest.region
    )
    return Question(standing, held)
