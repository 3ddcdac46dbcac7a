"""When the key term that encrypts gives way to a new one: by age, and by how often it was used.

Old terms stay, to decrypt. With random nonces a term may seal 2^32 times before a repetition becomes likely enough
to matter (NIST SP 800-38D, section 8.3); half of that is the most that can be configured.
"""

import msgspec
import structlog

from node.store import CommandRejected, Store
from node.view import View
from storage.command import KeyTermAdd
from storage.keyring import WRAPS_PER_TERM_MAX
from storage.outcome import Reason
from storage.rows import KeyTerm

VIEW, PATH = "sys:config", "key-rotation"
SECOND_NS = 1_000_000_000
INTERVAL_DEFAULT_S = 90 * 24 * 3600
INTERVAL_MIN_S = 24 * 3600
OPERATIONS_MIN = 1_000_000

log = structlog.get_logger("keys")


class Rotation(msgspec.Struct, frozen=True):
    """What is configured; an interval of 0 means never by age."""

    enabled: bool = True
    interval_s: int = INTERVAL_DEFAULT_S
    operations_max: int = WRAPS_PER_TERM_MAX


def configured(store: Store) -> Rotation:
    """What holds now."""
    item = View(store, VIEW).get(PATH)
    return msgspec.json.decode(item.raw, type=Rotation) if item is not None else Rotation()


def newest(store: Store) -> KeyTerm:
    """The term that encrypts."""
    return store.reads.key_terms()[-1]


def is_due(rotation: Rotation, term: KeyTerm, *, wraps: int, now_ns: int) -> bool:
    """Whether a term has been used for long or often enough."""
    if not rotation.enabled:
        return wraps >= WRAPS_PER_TERM_MAX  # not to be switched off
    aged = 0 < rotation.interval_s * SECOND_NS <= now_ns - term.created_ns
    return aged or wraps >= rotation.operations_max


async def rotate(store: Store, *, request_id: bytes = b"") -> None:
    """Encrypt with a new term from now on. Of two at once one adds it, and both have what they asked for."""
    number = newest(store).term + 1
    command = KeyTermAdd(time_ns=store.now_ns(), term=number, wrapped_key=store.keyring.new_term(number))
    try:
        await store.submit(command, request_id=request_id)
    except CommandRejected as error:
        if error.reason != Reason.TERM_EXISTS:
            raise
    else:
        log.info("key term added", term=number)


async def rotate_if_due(store: Store) -> None:
    """For the leader, every minute or so. A store that is still being made has no term yet."""
    if not store.reads.key_terms():
        return
    if is_due(configured(store), newest(store), wraps=store.wraps, now_ns=store.now_ns()):
        await rotate(store)
