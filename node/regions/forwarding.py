"""A write that arrives in a region that follows: carried to the region that orders writes, answered from there.

The caller's own request travels, token and all, over the link; that region authenticates, authorises and records it
again. It carries a request id, so that it can be sent again where its outcome is not known. The answer is held until
this node's state has come to where the write stands, so that the caller reads it here.
"""

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from node import errors
from node.api.head import INDEX, REQUEST_ID, Raw, parse_index
from node.api.vault.render import JSON, Rendered
from node.core.core import Core
from node.core.request import Request
from node.regions import control, stream
from node.regions.links import Answer, Interrupted, Unreachable
from node.regions.worker import CARRIED_MAX, RegionsWorker
from storage.rows import Epoch, Region

FORWARD_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 15.0
RETRY_S = 0.2
SUCCESSOR_PATIENCE_S = 2.0  # after a handover: until this node has heard of the region that took over
CATCH_UP_S = 5.0
CLIENT = "X-Strongroom-Client"  # who asked, as the region that took the request saw it
CERTIFICATES = "X-Strongroom-Client-Certificates"  # and what he has shown, as that region has verified it
CERTIFICATES_BYTES_MAX = 8 * 1024
# The highest that the sender knows, "3 eu": who orders in a lower one is no primary.
EPOCH = "X-Strongroom-Epoch"
NOT_PRIMARY = "X-Strongroom-Not-Primary"  # on answers: this region does not order writes (yet, or any more)

# Headers of a request that mean something to the pipeline; all others stay here.
_CARRIED = (
    "X-Vault-Token",
    "Authorization",
    "X-Vault-Namespace",
    "X-Vault-Wrap-TTL",
    "X-Vault-Request",
    "Content-Type",
)
_RETURNED = ("Content-Type", "Retry-After", "Location")

_encode = msgspec.json.Encoder(decimal_format="number").encode


async def forward(core: Core, raw: Raw, request: Request) -> Rendered:
    """Raises NotPrimary (certainly nothing happened) or OutcomeUnknown."""
    headers = {name: raw.headers[name] for name in _CARRIED if name in raw.headers}
    headers[REQUEST_ID] = raw.headers.get(REQUEST_ID) or os.urandom(16).hex()
    headers[CLIENT] = request.remote
    if chain := request.client_chain():
        headers[CERTIFICATES] = told(chain)
    if core.regions is not None:
        headers[EPOCH] = "{} {}".format(*core.regions.highest)
    body = _encode(request.data) if request.has_body else b""
    source, answer = await _pursue(core, raw, headers, body)
    arrived = await _catch_up(core, source, answer.headers.get(INDEX))
    returned = _RETURNED if arrived else (*_RETURNED, INDEX)  # who passes it on waits for it here
    kept = {name: answer.headers[name] for name in returned if name in answer.headers}
    return Rendered(answer.status, answer.body, kept or {"Content-Type": JSON})


def told(chain: Sequence[bytes]) -> str:
    """The client's own certificate, and as many of those above it as a header has room for."""
    texts = [base64.b64encode(each).decode() for each in chain]
    while len(texts) > 1 and len(",".join(texts)) > CERTIFICATES_BYTES_MAX:
        texts.pop()
    return ",".join(texts)


def certificates(header: str | None) -> tuple[bytes, ...]:
    """What a region that is known as one says that its client has shown."""
    return tuple(base64.b64decode(each) for each in header.split(",")) if header else ()


async def _pursue(core: Core, raw: Raw, headers: Mapping[str, str], body: bytes) -> tuple[str, Answer]:
    """Ask until a region that orders writes answers, or time is up: its name and what it says."""
    regions, ends = core.regions, time.monotonic() + FORWARD_TIMEOUT_S
    problem, unknown = "it is not known yet which region orders writes", False
    while regions is not None and time.monotonic() < ends:
        if regions.was_removed and not unknown:
            problem = "this region was removed: `region leave` makes it a store of its own"
            break
        source = regions.primary()
        waited_s = time.monotonic() + FORWARD_TIMEOUT_S - ends
        headless = (source is None or regions.was_demoted(source)) and not regions.changing
        if headless and not unknown and waited_s > SUCCESSOR_PATIENCE_S:
            problem = (
                "no region orders writes: the one that did was demoted, and none is known to have taken over"
            )
            break
        if source is not None and not regions.changing and regions.has_lost(source):
            problem = f"region {source.name} cannot be reached"
            break  # who cannot be heard is not asked: the answer would be late, and what happened unknown
        try:
            if source is not None:
                asking = regions.ask(
                    source,
                    raw.raw_path,
                    method=raw.method,
                    body=body,
                    headers=headers,
                    timeout_s=ATTEMPT_TIMEOUT_S,
                )
                async with _turn(regions, asking, ends - time.monotonic()):
                    answer = await _while_heard(regions, source, asking)
                if NOT_PRIMARY not in answer.headers and settles(answer.status, unknown=unknown):
                    return source.name, answer
                problem = f"region {source.name} answered {answer.status} at last"
        except Unreachable as error:
            problem = str(error)
            if not unknown and not regions.changing:
                break  # nothing was sent, and nobody is taking over: waiting would only delay the answer
        except Interrupted as error:
            problem, unknown = str(error), True
        await asyncio.sleep(RETRY_S)
    if unknown:
        raise errors.OutcomeUnknown(
            f"the write was sent to another region, whose answer was lost ({problem})"
        )
    raise errors.NotPrimary(f"nothing was written: {problem}{_situation(core)}")


@contextlib.asynccontextmanager
async def _turn(
    regions: RegionsWorker, asking: Coroutine[Any, Any, Answer], patience_s: float
) -> AsyncIterator[None]:
    """So that what is asked to keep in touch need not queue up behind what is carried. Raises Unreachable."""
    try:
        async with asyncio.timeout(patience_s):
            await regions.carried.acquire()
    except BaseException as error:
        asking.close()
        if isinstance(error, TimeoutError):
            raise Unreachable(f"this node carries {CARRIED_MAX} requests to other regions already") from None
        raise
    try:
        yield
    finally:
        regions.carried.release()


async def _while_heard(regions: RegionsWorker, source: Region, asking: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer; Interrupted as soon as nothing is heard from that region any more."""
    task = asyncio.create_task(asking, name="forward")
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=RETRY_S)
            if not task.done() and regions.has_lost(source):
                raise Interrupted(f"nothing is heard from {source.name} any more")
        return task.result()
    finally:
        task.cancel()


def _situation(core: Core) -> str:
    """Who orders writes, and how far this region is behind, as far as it is known."""
    if core.store is None or core.regions is None:
        return ""
    own = stream.standing(core.store)
    if own.epoch_region == own.region or core.regions.was_removed:
        return ". Reads go on here, and log-ins that give batch tokens"
    contact, behind = core.regions.contacts.get(own.epoch_region), control.lag(core.regions, own)
    heard = f", last heard of {time.monotonic() - contact.heard_at:.1f} s ago" if contact else ""
    told = f"; {own.region} follows {own.epoch_region}, which orders writes{heard}"
    if behind["lag_seconds"] is not None:
        told += f", and is {behind['lag_entries']} commands and {behind['lag_seconds']:.1f} s behind it"
    return f"{told}. Reads go on here, and log-ins that give batch tokens"


def fence(core: Core, header: str | None) -> None:
    """Order nothing any more for a sender who knows an epoch that prevails over ours."""
    number, _, region = (header or "").partition(" ")
    if core.regions is not None and number.isdecimal() and len(number) < 19:
        core.regions.superseded((int(number), region))


def settles(status: int, *, unknown: bool) -> bool:
    """Whether an answer tells what became of the write.

    While an earlier attempt may have been carried out, only a success does: a refusal speaks of the last attempt,
    which may have been refused because of the first.
    """
    return status < HTTPStatus.BAD_REQUEST or not unknown


async def _catch_up(core: Core, source: str, header: str | None) -> bool:
    """Wait until this node is where the answer of `source` stands, or for a while; whether it is. OutcomeUnknown.

    Where another region has begun to order writes meanwhile, before that position, what `source` acknowledged is
    perhaps no part of the history: nobody may be told that it was done.
    """
    if header is None or core.store is None:
        return True
    try:
        _, position = parse_index(header)
    except errors.InvalidRequest:
        return True
    before = core.store.reads.epochs()
    arrived = await core.store.wait_for(position, CATCH_UP_S)
    if superseded(source, position, before, core.store.reads.epochs(), arrived=arrived):
        raise errors.OutcomeUnknown(
            f"{source} answered, and another region took over before that arrived here"
        )
    return arrived


def superseded(
    source: str, position: int, before: Sequence[Epoch], after: Sequence[Epoch], *, arrived: bool
) -> bool:
    """Whether another region than `source` orders `position`, as a node tells that waited for it.

    `before`, `after`: the epochs that it knew when it began to wait and at the end; `arrived`: it holds the position.
    """
    begun = [each for each in after if each.position <= position]
    return bool(begun) and begun[-1].region != source and (arrived or len(after) > len(before))
