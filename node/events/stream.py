"""The events of one open store, from what the machine applies to this node's subscribers.

Nobody is told anything on the strength of rights that are out of date (audience.py), nor misses anything: what
cannot be told at once is told later (fanout.py), and what can never be told is replaced by an event that says so.
"""

import asyncio
from collections.abc import Iterator

from node.core.core import Core
from node.events import happened
from node.events.audience import OUT_OF_DATE, Audience
from node.events.cursor import Cursor, is_ours
from node.events.fanout import SLICE, WINDOW, Counters, Fanout
from node.events.happened import Event
from node.events.lifetimes import Lifetimes
from node.events.ring import Ring
from node.events.subscription import End, Form, Subscription
from node.store import Store
from storage import command as c
from storage.outcome import Done, Outcome
from storage.rows import Mount

APPLIED_MAX = 4096  # commands between two turns of the loop; more are a gap
TICK_S = 0.1
SWEEP_S = 0.25  # how long a token that ended may keep a silent connection
SWEEP_SHARE = 10  # of the time at most one part goes into sweeps
HEARTBEAT_S = 10.0
STALL_S = 30.0  # a subscriber that takes nothing for so long is cut off
CUT_OFF_S = 10.0  # without word from the cluster

RESTORED, MOUNTS = "restored", "mounts"


class Stream:
    """See the module. Owns its tasks; a state machine's Observer. Ends with close()."""

    def __init__(self, core: Core, store: Store, counters: Counters) -> None:
        self._store = store
        self.cluster = core.lifecycle.cluster_id
        self._mounts: dict[str, Mount] = {}
        self._mounts_generation = -1
        self._epoch, self._regions_generation = 0, -1
        self._applied: list[tuple[int, c.AnyCommand, Done]] = []
        self._gap = False
        self._closed: End | None = None
        self._lifetimes = Lifetimes(store, self._mounts_by_id)
        self.audience = Audience(core, store)
        ring = Ring(store.position, self._lifetimes.known_ns)
        self.fanout = Fanout(store, self.audience, ring, counters, self.cursor)
        self._loop = asyncio.get_running_loop()
        store.observe(self)
        self._tasks = (
            self._loop.create_task(self.fanout.carry(), name="events-carry"),
            self._loop.create_task(self._watch(), name="events-watch"),
        )
        for task in self._tasks:
            task.add_done_callback(_stop_on_bug)

    def close(self, why: End) -> None:
        """Nobody is told anything more."""
        self._closed = why
        self._store.observe(None)
        for task in self._tasks:
            task.cancel()
        self.end_all(why)

    def end_all(self, why: End) -> None:
        for each in self.audience.all:
            each.end(why)

    # --- what the machine tells (Observer) ---

    def applied(self, position: int, command: c.AnyCommand, outcome: Outcome) -> None:
        if type(outcome) is not Done:
            return
        if type(command) is not c.KvPut and (not happened.is_news(command) or self._changes_nothing(command)):
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
        self._lifetimes.restart()
        self.audience.everybody_out_of_date()
        self._all_read_again(RESTORED)

    def _all_read_again(self, reason: str) -> None:
        self.fanout.all_read_again(reason, self._lifetimes.told_ns)

    # --- from commands to events ---

    def _take_in(self) -> None:
        taken, self._applied = self._applied, []
        if self._gap:
            self._gap = False
            self._lifetimes.overlooked()
            self.audience.everybody_out_of_date()
            self._all_read_again(WINDOW)
        for position, command, outcome in taken:
            if type(command) is c.KvPut:
                self._take_put(position, command, outcome)
                continue
            for event in self._events_of(position, command, outcome):
                self.fanout.publish(event)

    def _take_put(self, position: int, put: c.KvPut, outcome: Done) -> None:
        """What _events_of() would make of it, quickly."""
        mount = self._mounts_by_id().get(put.mount_id)
        if mount is not None:
            self.fanout.publish(happened.written(position, put, mount))
            self._lifetimes.note(put, outcome.value)

    def _events_of(self, position: int, command: c.AnyCommand, outcome: Done) -> Iterator[Event]:
        parts = list(happened.parts(command))
        values = outcome.value["results"] if isinstance(command, c.Batch) else [outcome.value]
        mounts, moved = self._mounts_by_id(), False
        for nth, (part, value) in enumerate(zip(parts, values, strict=True)):
            self.audience.note(part)
            moved = moved or happened.moves_secrets(part)
            reached = position if nth == len(parts) - 1 else position - 1
            event = happened.happened(position, nth, reached, part, mounts)
            if event is not None:
                yield event
                if isinstance(part, c.KvPut):
                    self._lifetimes.note(part, value)
        if moved:
            self._all_read_again(MOUNTS)

    def _changes_nothing(self, command: c.AnyCommand) -> bool:
        """Asked before anything else is applied, after which the secret may be gone. None of these comes in batches."""
        if not isinstance(command, c.KvDelete | c.KvUndelete | c.KvDestroy):
            return False
        return self._store.reads.kv_key(command.mount_id, command.path) is None

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
        return Cursor(self.cluster, at, self._lifetimes.told_ns, self._epoch)

    # --- subscribers ---

    def begin(self, subscription: Subscription) -> None:
        """From now on it is told; its transport is set, and its answer has begun."""
        if self._closed is not None:  # while the answer began: nobody would ever end it
            subscription.end(self._closed)
            return
        self._take_in()
        self.audience.admit(subscription)
        cursor, place = subscription.cursor, self.fanout.ring.end
        if cursor is not None:
            ours = cursor.cluster == self.cluster and is_ours(cursor, self._store.reads.epochs())
            known = self.fanout.ring.after(cursor) if ours else None
            place = -1 if known is None else known
        self.fanout.begin(subscription, place)
        subscription.write(subscription.heartbeat(cursor or self.cursor()), 0)

    def finish(self, subscription: Subscription) -> None:
        """It is over."""
        self.audience.dismiss(subscription)
        self.fanout.finish(subscription)

    # --- what time brings ---

    async def _watch(self) -> None:
        await self._lifetimes.learn()
        beat_at = sweep_at = self._loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            if self._lifetimes.are_unknown:
                await self._lifetimes.learn()
            self._take_in()
            for event in self._lifetimes.expired():
                self.fanout.publish(event)
            if now >= sweep_at:
                await self._sweep()
                sweep_at = now + max(SWEEP_S, SWEEP_SHARE * (self._loop.time() - now))
            if now >= beat_at:
                beat_at = now + HEARTBEAT_S
                await self._beat()

    async def _sweep(self) -> None:
        """End those who may not go on: their token ended, something took their right, or they take nothing."""
        now_ns, now = self._store.now_ns(), self._loop.time()
        for number, each in enumerate(tuple(self.audience.all), 1):
            if not each.ended.done():
                if 0 < each.row.expires_ns <= now_ns:
                    each.checked = OUT_OF_DATE  # unless it was renewed, it ends
                if each.checked != self.audience.rights:
                    self.fanout.look_again(each)
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
            cursor, beats = self.cursor(), dict[tuple[Form, bool], bytes]()
            for each in waiting[-SLICE:]:
                if each.ended.done() or each.is_full:
                    continue
                level = self.fanout.has_told_all(each)  # else what the cursor says is not true yet
                beat = beats.get((each.form, level))
                if beat is None:
                    beat = beats[each.form, level] = each.heartbeat(cursor if level else None)
                each.write(beat, 0)
            del waiting[-SLICE:]
            await asyncio.sleep(0)


def _stop_on_bug(task: "asyncio.Task[None]") -> None:
    """What reached nobody stops the node: the loop's exception handler sees to it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": task.get_name(), "exception": error})
