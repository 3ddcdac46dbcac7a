"""Leases in the store: issue, renew, end, and take back what has ended.

Ending a lease and taking back what it stands for are two steps: the first is a command, acknowledged like any write,
and from it on the lease is no longer good; the second is the engine's, may fail, and is repeated with growing pauses by
whoever leads. An engine's part is a Revoker: it does what must be done outside the store, and returns the commands that
belong to it inside, which go in one write with the removal of the lease. It may run twice, so it must be idempotent.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from node.auth.fields import SECOND_NS
from node.auth.identity import random_base62
from node.auth.ttl import Limits
from node.core import request as envelope
from node.core.request import Request
from node.errors import InvalidRequest, NoQuorum, NotFound, OutcomeUnknown, PermissionDenied, TooBusy
from node.leases.planner import Grant, after_failure, grant, is_live, renewal
from node.store import CommandRejected, Store
from node.view import write
from storage.command import (
    AnyCommand,
    LeaseFailed,
    LeasePut,
    LeaseRenew,
    LeasesEnd,
    LeasesRemove,
    TokenRevoke,
)
from storage.keyring import KIND_LEASE, Context
from storage.outcome import Reason
from storage.rows import Lease, Mount

STEP_LEASES_MAX = 256  # in one command, or one look at what is due
AT_ONCE_MAX = 8  # engines' revocations at the same time
REVOKE_TIMEOUT_S = 10.0
SWEEP_STEPS_MAX = 8
PROBLEMS_SHOWN_MAX = 3
RACES_MAX = 4

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_STORE_ERRORS = (NoQuorum, TooBusy, OutcomeUnknown)

log = structlog.get_logger("leases")


class RevocationFailed(Exception):
    """The engine could not take a credential back now. The message is shown to operators: no secret in it."""


class Revoker(Protocol):
    """An engine's part in ending a lease; `data` is what it gave to issue(). Raises RevocationFailed."""

    async def __call__(self, store: Store, mount: Mount, data: Any) -> Sequence[AnyCommand]: ...


Revokers = Mapping[str, Revoker]  # by Mount.engine


@dataclass(frozen=True, slots=True)
class Issued:
    """A lease that is not in the store yet: what the caller is told, and the command that makes it."""

    lease: envelope.Lease
    command: LeasePut
    warnings: tuple[str, ...]


def issue(
    store: Store,
    request: Request,
    bounds: Limits,
    *,
    asked_ns: int,
    longest_ns: int,
    renewable: bool,
    data: Any,
) -> Issued:
    """A lease on what `request` is about to be answered. `data` (JSON) is what revoking it takes; `bounds` are the
    mount's.

    It ends with the token that asks; where a request spends the last use of its token there is none to end with. A
    batch token is in no store: its leases end with its parent, and no later than itself.
    """
    mount, row = request.mount, request.token_row
    assert mount is not None
    assert row is not None
    if row.num_uses < 0:
        raise InvalidRequest("a token with one use left cannot hold a lease")
    now_ns = store.now_ns()
    batch = row.kind == "batch"
    if batch:
        left_ns = max(row.expires_ns - now_ns, 1)
        bounds = Limits(min(bounds.default_ns, left_ns), min(bounds.max_ns, left_ns))
    granted = grant(bounds, asked_ns=asked_ns, longest_ns=longest_ns, now_ns=now_ns)
    lease_id = f"{request.path}/{random_base62()}"
    command = LeasePut(
        time_ns=now_ns,
        lease_id=lease_id,
        mount_id=mount.mount_id,
        owner=row.parent if batch else row.digest,
        ttl_ns=granted.ttl_ns,
        expires_ns=now_ns + granted.ttl_ns,
        max_ns=granted.max_ns,
        renewable=renewable,
        value=store.seal(_place(mount.mount_id, lease_id), _encode(data)),
    )
    told = envelope.Lease(granted.ttl_ns // SECOND_NS, lease_id, renewable)
    return Issued(told, command, granted.warnings)


async def submit(store: Store, issued: Issued, *commands: AnyCommand, request_id: bytes = b"") -> None:
    """Write what an engine hands out together with its lease.

    Raises PermissionDenied if the token went meanwhile, NotFound if the mount did.
    """
    try:
        await write(store, *commands, issued.command, request_id=request_id)
    except CommandRejected as error:
        if error.reason == Reason.NO_SUCH_MOUNT:
            raise NotFound from None
        if error.reason != Reason.NO_SUCH_TOKEN:
            raise
        raise PermissionDenied("permission denied") from None


def find(store: Store, lease_id: str) -> Lease | None:
    """A lease that is good now."""
    lease = store.reads.lease(lease_id)
    return lease if lease is not None and is_live(lease, store.now_ns()) else None


async def renew(store: Store, lease_id: str, *, increment_ns: int, request_id: bytes = b"") -> Grant:
    """Prolong a lease. Raises InvalidRequest."""
    lease = find(store, lease_id)
    if lease is None:
        raise InvalidRequest("lease not found")
    now_ns = store.now_ns()
    granted = renewal(lease, increment_ns=increment_ns, now_ns=now_ns)
    command = LeaseRenew(
        time_ns=now_ns, lease_id=lease_id, ttl_ns=granted.ttl_ns, expires_ns=now_ns + granted.ttl_ns
    )
    try:
        await store.submit(command, request_id=request_id)
    except CommandRejected as error:
        if error.reason != Reason.NO_SUCH_LEASE:
            raise
        raise InvalidRequest("lease not found") from None
    return granted


async def end(store: Store, lease_id: str) -> None:
    """From now on a lease is no longer good; a sweep takes it back. An absent one is a success."""
    await store.submit(LeasesEnd(time_ns=store.now_ns(), prefix=lease_id, exact=True, limit=1))


async def end_below(store: Store, folder: str) -> None:
    """As end(), for all leases in a folder, which ends with a slash.

    Tokens count as leases of the auth method that made them, as far as they expire.
    """
    while True:
        command = LeasesEnd(time_ns=store.now_ns(), prefix=folder, exact=False, limit=STEP_LEASES_MAX)
        _, value = await store.submit(command)
        if int(value["ended"]) < STEP_LEASES_MAX:
            break
    while folder.startswith("auth/"):
        digests = store.reads.tokens_by_path(folder, STEP_LEASES_MAX)
        if not digests:
            break
        now_ns = store.now_ns()
        await write(store, *(TokenRevoke(time_ns=now_ns, digest=digest) for digest in digests))


async def take_back_below(store: Store, revokers: Revokers, folder: str) -> list[Lease]:
    """Try now, whatever the back-off says, to take back all ended leases in a folder; returns what could not be."""
    failed: list[Lease] = []
    after = ""
    while leases := store.reads.leases_ending(folder, after, STEP_LEASES_MAX):
        failed += await take_back(store, revokers, leases)
        after = leases[-1].lease_id
    return failed


async def sweep(store: Store, revokers: Revokers) -> None:
    """Take back what is due, in steps. For the leader: every node would do, twice."""
    for _ in range(SWEEP_STEPS_MAX):
        due = store.reads.leases_due(store.now_ns(), STEP_LEASES_MAX)
        if not due:
            break
        await take_back(store, revokers, due)


async def take_back(store: Store, revokers: Revokers, leases: Sequence[Lease]) -> list[Lease]:
    """Let the engines take back what these leases stand for; returns those that failed, as they are kept now."""
    mounts = {mount.mount_id: mount for mount in store.reads.mounts()}
    failed: list[Lease] = []
    slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(lease: Lease) -> None:
        async with slots:
            if not await _take_back(store, revokers, mounts.get(lease.mount_id), lease):
                failed.append(lease)

    for outcome in await asyncio.gather(*map(one, leases), return_exceptions=True):
        if outcome is not None:
            raise outcome  # of the store, not of an engine: what is left is due still
    return [now for lease in failed if (now := store.reads.lease(lease.lease_id)) is not None]


async def end_with_mount(store: Store, revokers: Revokers, path: str) -> None:
    """Take back all that was handed out below a mount that is about to go. Raises InvalidRequest if that fails."""
    await end_below(store, path)
    failed = await take_back_below(store, revokers, path)
    if failed:
        raise InvalidRequest(
            f"failed to revoke {describe(failed)}; sys/leases/revoke-force/{path} forgets them"
        )


def describe(leases: Sequence[Lease]) -> str:
    """Leases that could not be revoked, the first few by name."""
    shown = ", ".join(f'"{lease.lease_id}" ({lease.problem})' for lease in leases[:PROBLEMS_SHOWN_MAX])
    return shown if len(leases) <= PROBLEMS_SHOWN_MAX else f"{len(leases)} leases, among them {shown}"


async def give_up_below(store: Store, folder: str) -> None:
    """Forget all ended leases in a folder, revoked or not."""
    while leases := store.reads.leases_ending(folder, "", STEP_LEASES_MAX):
        ids = tuple(lease.lease_id for lease in leases)
        await store.submit(LeasesRemove(time_ns=store.now_ns(), lease_ids=ids))


async def _take_back(store: Store, revokers: Revokers, mount: Mount | None, lease: Lease) -> bool:
    """Whether a lease is gone now. Two nodes may try at once: who is slower looks again."""
    for _ in range(RACES_MAX):
        try:
            return await _try_to_take_back(store, revokers, mount, lease)
        except CommandRejected as error:
            if error.reason not in (Reason.REVISION_MISMATCH, Reason.NO_SUCH_MOUNT):
                raise
        if store.reads.lease(lease.lease_id) is None:
            return True
    await _record(store, lease, "too many changes at the same time")
    return False


async def _try_to_take_back(store: Store, revokers: Revokers, mount: Mount | None, lease: Lease) -> bool:
    try:
        commands = await _revoked(store, revokers, mount, lease)
    except _STORE_ERRORS:
        raise  # not the engine's: the lease is due still
    except RevocationFailed as error:
        await _record(store, lease, str(error))
        return False
    except Exception as error:  # noqa: BLE001 - one lease that an engine stumbles over must not keep the others alive
        await _record(store, lease, f"the engine failed: {type(error).__name__}")
        return False
    await write(store, *commands, LeasesRemove(time_ns=store.now_ns(), lease_ids=(lease.lease_id,)))
    return True


async def _revoked(
    store: Store, revokers: Revokers, mount: Mount | None, lease: Lease
) -> Sequence[AnyCommand]:
    """Let the engine take back what a lease stands for; what is to be written for it."""
    if mount is None:
        return ()  # it went, and took with it what it could
    revoker = revokers.get(mount.engine)
    if revoker is None:
        raise RevocationFailed(f"this build has no engine {mount.engine} to take it back")
    data = _decode(store.open(_place(lease.mount_id, lease.lease_id), lease.value))
    try:
        async with asyncio.timeout(REVOKE_TIMEOUT_S):
            return await revoker(store, mount, data)
    except TimeoutError:
        raise RevocationFailed("no answer in time") from None


async def _record(store: Store, lease: Lease, problem: str) -> None:
    now_ns = store.now_ns()
    retry = after_failure(lease, now_ns)
    log.warning("lease not revoked", attempts=lease.attempts + 1, given_up=retry.irrevocable)
    await store.submit(
        LeaseFailed(
            time_ns=now_ns,
            lease_id=lease.lease_id,
            attempts=lease.attempts,
            problem=problem,
            retry_ns=retry.at_ns,
            irrevocable=retry.irrevocable,
        )
    )


def _place(mount_id: str, lease_id: str) -> Context:
    return Context(KIND_LEASE, mount_id, lease_id, 0)
