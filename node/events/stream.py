"""The events of one open store, from what the machine applies to the connections of this node's subscribers.

An event is encoded once for each form of connection, decided upon once for each interest, and goes straight into the
connections of those who are level with the stream. Whoever is not - newly come with a cursor, slow, or with rights
that have to be looked up again - is *behind*: its queue is a place in the ring, from which a task carries it forward.
Nobody is told anything on the strength of rights that are out of date (audience.py).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator

from node.core.core import Core
from node.events import encoding, happened
from node.events.audience import OUT_OF_DATE, Audience
from node.events.cursor import MS_NS, Cursor, is_ours
from node.events.expiries import Expiries, has_expired
from node.events.happened import EXPIRED, Event
from node.events.ring import Ring, is_new
from node.events.subscription import End, Form, Subscription
from node.store import Store
from storage import command as c
from storage.command import Done, Outcome
from storage.rows import Mount

APPLIED_MAX = 4096  # commands between two turns of the loop; more are a gap
TICK_S = 0.1
SWEEP_S = 0.25  # how long a token that ended may keep a silent connection
SWEEP_SHARE = 10  # of the time at most one part goes into sweeps
HEARTBEAT_S = 10.0
STALL_S = 30.0  # a subscriber that takes nothing for so long is cut off
CUT_OFF_S = 10.0  # without word from the cluster
SLICE = 200  # subscribers looked at in one turn of the loop
CARRIED_MAX = 256  # events, at a time
ENCODED_MAX = 1024
SCANNED_ROWS_MAX = 2000
LATE_NS = (
    5 * 10**9
)  # cursors claim expiries only up to so long ago: a version may be applied here after it expired
LOOK_BACK_NS = 60 * 10**9  # expiries of so long before the store was opened are found again
NEAR_NS = 3600 * 10**9  # the expiries of the next hour are known

WINDOW, RESTORED, MOUNTS = "window", "restored", "mounts"


class Counters:
    """What metrics show; they outlive a seal."""

    def __init__(self) -> None:
        self.events = self.sent = self.rereads = 0
        self.ended: dict[End, int] = dict.fromkeys(End, 0)


class Stream:
    """See the module. Owns its tasks; a state machine's Observer. Ends with close()."""

    def __init__(self, core: Core, store: Store, counters: Counters) -> None:
        self._store, self._counters = store, counters
        self.cluster = core.lifecycle.cluster_id
        self.audience = Audience(core, store)
        self._opened_ns = self._expired_ns = store.now_ns()
        self.ring = Ring(store.position, self._opened_ns - LOOK_BACK_NS)
        self._behind: set[Subscription] = set()
        self._wake = asyncio.Event()
        self._applied: list[tuple[int, c.AnyCommand, Done]] = []
        self._gap = False
        self._encoded: OrderedDict[tuple[int, Form], bytes] = OrderedDict()
        self._mounts: dict[str, Mount] = {}
        self._mounts_generation = -1
        self._epoch, self._regions_generation = 0, -1
        self._expiries = Expiries()
        self._loop = asyncio.get_running_loop()
        store.observe(self)
        self._tasks = (
            self._loop.create_task(self._carry(), name="events-carry"),
            self._loop.create_task(self._watch(), name="events-watch"),
        )
        for task in self._tasks:
            task.add_done_callback(_stop_on_bug)

    def close(self, why: End) -> None:
        """Nobody is told anything more."""
        self._store.observe(None)
        for task in self._tasks:
            task.cancel()
        self.end_all(why)

    def end_all(self, why: End) -> None:
        for each in self.audience.all:
            each.end(why)

    # --- what the machine tells (Observer) ---

    def applied(self, position: int, command: c.AnyCommand, outcome: Outcome) -> None:
        if type(outcome) is not Done or not happened.is_news(command):
            return
        if not self._applied and not self._gap:
            self._loop.call_soon(self._take_in)
        if len(self._applied) >= APPLIED_MAX:
            self._applied.clear()
            self._gap = True
        self._applied.append((position, command, outcome))

    def replaced(self) -> None:
        """What happened before is not known, and neither is who may hear what."""
        self._applied.clear()
        self._opened_ns = self._expired_ns = self._store.now_ns()
        self._expiries.horizon_ns = 0  # the next tick learns them anew
        self.audience.everybody_out_of_date()
        self._all_read_again(RESTORED)

    # --- from commands to events ---

    def _take_in(self) -> None:
        taken, self._applied = self._applied, []
        if self._gap:
            self._gap = False
            self.audience.everybody_out_of_date()
            self._all_read_again(WINDOW)
        for position, command, outcome in taken:
            for event in self._events_of(position, command, outcome):
                self._publish(event)

    def _events_of(self, position: int, command: c.AnyCommand, outcome: Done) -> Iterator[Event]:
        parts = list(happened.parts(command))
        values = outcome.value["results"] if isinstance(command, c.Batch) else [outcome.value]
        mounts, moved = self._mounts_by_id(), False
        for nth, (part, value) in enumerate(zip(parts, values, strict=True)):
            self.audience.note(part)
            moved = moved or happened.moves_secrets(part)
            reached = position if nth == len(parts) - 1 else position - 1
            event = happened.happened(position, nth, reached, part, mounts)
            if event is not None and self._changed_something(part):
                yield event
                if isinstance(part, c.KvPut) and value["deletion_ns"]:
                    self._expiries.add(value["deletion_ns"], part.mount_id, part.path, part.version)
        if moved:
            self._all_read_again(MOUNTS)

    def _changed_something(self, command: c.AnyCommand) -> bool:
        if not isinstance(command, c.KvDelete | c.KvUndelete | c.KvDestroy):
            return True
        return self._store.reads.kv_key(command.mount_id, command.path) is not None

    def _mounts_by_id(self) -> dict[str, Mount]:
        """The KV engines."""
        generation = self._store.generation("mounts")
        if generation != self._mounts_generation:
            self._mounts = {each.mount_id: each for each in self._store.mounts() if each.kind == "kv"}
            self._mounts_generation = generation
        return self._mounts

    def cursor(self, position: int | None = None) -> Cursor:
        """Where somebody stands who was told everything up to now, or up to a position."""
        generation = self._store.generation("regions")
        if generation != self._regions_generation:
            epochs = self._store.reads.epochs()
            self._epoch, self._regions_generation = epochs[-1].epoch if epochs else 0, generation
        at = self._store.position if position is None else position
        return Cursor(self.cluster, at, self._expired_ns - LATE_NS, self._epoch)

    # --- from events to subscribers ---

    def _publish(self, event: Event) -> None:
        self.ring.append(event)
        self._counters.events += 1
        if not self.audience.all:
            return
        place, frames = self.ring.end - 1, dict[Form, bytes]()
        for interest, members in self.audience.interested(event.type, encoding.facts(event)):
            for each in members:
                if each.behind:
                    continue
                if each.checked != self.audience.rights or each.is_full:
                    self._fall_behind(each, place)
                    continue
                if not self.audience.may_hear(interest.acl, event):
                    break
                frame = frames.get(each.form) or self._frame(each, event, place)
                frames[each.form] = frame
                each.write(frame)
                self._counters.sent += 1

    def _frame(self, subscription: Subscription, event: Event, place: int) -> bytes:
        """The event as this form of connection carries it, made once."""
        known = self._encoded.get((place, subscription.form))
        if known is None:
            key = self._store.reads.kv_key(event.mount.mount_id, event.name) if event.name else None
            oldest, current = (0, 0) if key is None else (key.oldest_version, key.current_version)
            cursor = self.cursor(event.reached)
            document = encoding.cloud_event(event, cursor, oldest, current)
            known = self._encoded[place, subscription.form] = subscription.frame(document, cursor)
            if len(self._encoded) > ENCODED_MAX:
                self._encoded.popitem(last=False)
        return known

    def _all_read_again(self, reason: str) -> None:
        """Now, or, those who are behind, when their turn comes: what was before is not in the ring any more."""
        self.ring.forget(self._store.position, self._expired_ns - LATE_NS)
        for each in tuple(self.audience.all):
            if each.behind or each.checked != self.audience.rights or each.is_full:
                self._fall_behind(each, -1)
                each.reason = reason
            else:
                self._tell_to_read_again(each, reason)

    def _tell_to_read_again(self, subscription: Subscription, reason: str) -> None:
        cursor = self.cursor()
        document = encoding.reread(cursor, self._store.now_ns(), reason)
        subscription.write(subscription.frame(document, cursor, "reread"))
        subscription.place, subscription.cursor = self.ring.end, None
        self._counters.rereads += 1

    # --- subscribers ---

    def begin(self, subscription: Subscription) -> None:
        """From now on it is told; its transport is set, and its answer has begun."""
        self._take_in()
        self.audience.admit(subscription)
        cursor, place = subscription.cursor, self.ring.end
        if cursor is not None:
            ours = cursor.cluster == self.cluster and is_ours(cursor, self._store.reads.epochs())
            known = self.ring.after(cursor) if ours else None
            place = -1 if known is None else known
        self._fall_behind(subscription, place)
        subscription.write(subscription.heartbeat(cursor or self.cursor()), 0)

    def finish(self, subscription: Subscription) -> None:
        """It is over."""
        self.audience.dismiss(subscription)
        self._behind.discard(subscription)
        self._counters.ended[subscription.ended.result()] += 1

    def _fall_behind(self, subscription: Subscription, place: int) -> None:
        subscription.behind, subscription.place = True, place
        self._behind.add(subscription)
        self._wake.set()

    # --- those who are behind ---

    async def _carry(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            later = False
            for number, each in enumerate(tuple(self._behind), 1):
                if each in self._behind and not self._carry_forward(each):
                    later = True
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            if later:
                self._loop.call_later(TICK_S / 2, self._wake.set)

    def _carry_forward(self, subscription: Subscription) -> bool:
        """Whether it can go on at once, if it has to; otherwise its connection takes nothing now."""
        if subscription.ended.done() or not self.audience.check(subscription):
            self._behind.discard(subscription)
            return True
        if subscription.is_full:
            subscription.stalled_at = subscription.stalled_at or self._loop.time()
            return False
        subscription.stalled_at = None
        if subscription.place < self.ring.first:
            self._tell_to_read_again(subscription, subscription.reason)
        events = self.ring.read(subscription.place, CARRIED_MAX)
        wanted = [
            self._frame(subscription, event, place)
            for place, event in enumerate(events, subscription.place)
            if self._is_wanted(subscription, event)
        ]
        subscription.place += len(events)
        if wanted:
            subscription.write(b"".join(wanted), len(wanted))
            self._counters.sent += len(wanted)
        if subscription.place < self.ring.end:
            self._wake.set()
        else:
            subscription.behind, subscription.cursor, subscription.reason = False, None, WINDOW
            self._behind.discard(subscription)
        return True

    def _is_wanted(self, subscription: Subscription, event: Event) -> bool:
        return (
            event.type in subscription.types
            and (subscription.cursor is None or is_new(event, subscription.cursor))
            and subscription.filter.lets(encoding.facts(event))
            and self.audience.may_hear(subscription.acl, event)
        )

    # --- what time brings ---

    async def _watch(self) -> None:
        await self._learn_expiries()
        beat_at = sweep_at = self._loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            if self._expiries.horizon_ns < self._store.now_ns() + NEAR_NS:
                await self._learn_expiries()
            self._expire()
            if now >= sweep_at:
                await self._sweep()
                sweep_at = now + max(SWEEP_S, SWEEP_SHARE * (self._loop.time() - now))
            if now >= beat_at:
                beat_at = now + HEARTBEAT_S
                await self._beat()

    async def _learn_expiries(self) -> None:
        """Look through all versions for those that have a lifetime."""
        self._expiries.restart()
        after, since_ns = 0, min(self._expired_ns, self._opened_ns - LOOK_BACK_NS)
        while True:
            found, after = self._store.reads.kv_expiring(after, since_ns, SCANNED_ROWS_MAX)
            for due_ns, mount_id, path, version in found:
                if due_ns > self._expired_ns or self._was_to_expire(mount_id, path, version, due_ns):
                    self._expiries.add(due_ns, mount_id, path, version)
            if not after:
                return
            await asyncio.sleep(0)

    def _was_to_expire(self, mount_id: str, path: str, version: int, due_ns: int) -> bool:
        """Whether the time at which a version was deleted is the one that its lifetime set."""
        row = self._store.reads.kv_version(mount_id, path, version)
        key = self._store.reads.kv_key(mount_id, path)
        if row is None or key is None or mount_id not in self._mounts_by_id():
            return False
        of_mount = self._store.reads.kv_config(mount_id).delete_version_after_ns
        return due_ns - row.created_ns in (key.delete_version_after_ns, of_mount)

    def _expire(self) -> None:
        """What has fallen due since the last time becomes events."""
        self._take_in()
        now_ns, mounts = time.time_ns(), self._mounts_by_id()
        for due_ns, mount_id, path, version in self._expiries.due(now_ns):
            row = self._store.reads.kv_version(mount_id, path, version)
            if mount_id in mounts and has_expired(row, due_ns):
                self._expired_ns = max(self._expired_ns, due_ns - MS_NS)
                at = self._store.position
                self._publish(Event(at, 0, at, due_ns, mounts[mount_id], EXPIRED, path, version))
        self._expired_ns = max(self._expired_ns, now_ns)

    async def _sweep(self) -> None:
        """End those who may not go on: their token ended, something took their right, or they take nothing."""
        now_ns, now = self._store.now_ns(), self._loop.time()
        for number, each in enumerate(tuple(self.audience.all), 1):
            if not each.ended.done():
                if 0 < each.row.expires_ns <= now_ns:
                    each.checked = OUT_OF_DATE  # unless it was renewed, it ends
                self.audience.check(each)
                if each.stalled_at is not None and now - each.stalled_at > STALL_S:
                    each.end(End.SLOW)
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def _beat(self) -> None:
        """Show that the connection works, also to ourselves, and let those who are level keep how far they came."""
        age_s = self._store.age_s()
        if age_s is not None and age_s > CUT_OFF_S:
            self.end_all(End.CUT_OFF)
        waiting = list(self.audience.all)
        while waiting:
            self._take_in()
            cursor, beats = self.cursor(), dict[Form, bytes]()
            for each in waiting[-SLICE:]:
                if not each.ended.done() and not each.behind and not each.is_full:
                    beats[each.form] = beats.get(each.form) or each.heartbeat(cursor)
                    each.write(beats[each.form], 0)
            del waiting[-SLICE:]
            await asyncio.sleep(0)


def _stop_on_bug(task: "asyncio.Task[None]") -> None:
    """What reached nobody stops the node: the loop's exception handler sees to it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": task.get_name(), "exception": error})
