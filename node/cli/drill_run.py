"""What all drills share: look before, measure, undo what was begun, and leave a report."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import click

from node.cli.client import Client, needed
from node.cli.drill_probe import Probe, longest_gap_s, wait_for
from node.cli.output import REMOTE_ERROR, LocalError, Output, RemoteError, pairs
from node.cli.progress import step as progress

WARM_UP_WRITES = 10
SETTLE_S = 60.0
LINE_CHARS_MAX = 500


class Refused(RemoteError):
    """It would hurt now."""

    def __init__(self, drill: str, reasons: Sequence[str]) -> None:
        told = "\n".join(f"  * {reason}" for reason in reasons)
        super().__init__(f"The {drill} drill would hurt now:\n{told}\n-force does it all the same.")


def look(client: Client) -> dict[str, Any]:
    """The plan. Raises RemoteError."""
    plan: dict[str, Any] = needed(client.call("GET", "sys/drills/plan", doing="Error looking ahead"), "data")
    return plan


def check(drill: str, reasons: Sequence[str], *, force: bool) -> bool:
    """Whether it goes on only because of -force. Raises Refused."""
    if reasons and not force:
        raise Refused(drill, reasons)
    return bool(reasons)


def members(client: Client) -> dict[str, Client]:
    """A client for every node of the region, by its id."""
    nodes = needed(client.call("GET", "sys/cluster/nodes"), "data", "nodes")
    return {each["node_id"]: replace(client, address=each["api_address"], connections=None) for each in nodes}


@dataclass
class Run:
    """One drill that is under way."""

    client: Client
    out: Output
    drill: str
    target: str
    forced: bool
    probe: Probe | None
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rto_ms: int | None = None
    rpo_writes: int | None = None  # the load knows it, where there is one
    left_undone: bool = False
    lag_entries: int | None = None
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Shown while it lasts, and part of the report however it ends."""
        began = time.monotonic()
        try:
            with progress(what) if self.out.table else contextlib.nullcontext():
                yield
        finally:
            self.steps.append({"what": what[:LINE_CHARS_MAX], "ms": _ms(time.monotonic() - began)})

    def note(self, sentence: str) -> None:
        self.notes.append(sentence[:LINE_CHARS_MAX])

    def warm_up(self) -> None:
        """Until the load is known to get through. Raises RemoteError, soon if all of it is refused."""
        probe = self._measuring()

        def gets_through() -> bool:
            if len(probe.failures) >= WARM_UP_WRITES and not probe.acknowledged:
                raise RemoteError("No write gets through, so there is nothing to measure.")
            return len(probe.acknowledged) >= WARM_UP_WRITES

        with self.step("Writing, to have something to compare with"):
            wait_for(f"{WARM_UP_WRITES} acknowledged writes", gets_through, SETTLE_S)

    def wait_for_write(self, since: float) -> None:
        """Until one that began after `since` was acknowledged. Raises RemoteError."""
        probe = self._measuring()
        wait_for(
            "an acknowledged write",
            lambda: any(each.began >= since for each in probe.acknowledged[-1:]),
            SETTLE_S,
        )

    def measure(self, since: float) -> int:
        """The longest time without an acknowledged write since then, in milliseconds; the report has the worst."""
        gap_ms = _ms(longest_gap_s(self._measuring().acknowledged, since))
        self.rto_ms = max(self.rto_ms or 0, gap_ms)
        return gap_ms

    def undone(self, what: str, action: Callable[[], object]) -> Callable[[], object]:
        """Do `action` when the drill is interrupted or fails, unless the returned function was called before."""
        stack = contextlib.ExitStack()
        self.undo.push(stack)

        def act() -> None:
            try:
                with self.step(what):
                    action()
            except (RemoteError, LocalError) as error:
                self.note(f"left undone: {what}: {error}")
                self.left_undone = True

        stack.callback(act)
        return stack.pop_all

    def _measuring(self) -> Probe:
        if self.probe is None:
            raise AssertionError("this drill has no load")
        return self.probe


def conduct(run: Run, body: Callable[[Run], None]) -> int:
    """Do it and report. Exit code 0: passed, 2: it did not."""
    started, ending = _now(), "failed"
    if run.probe is not None:
        run.probe.start()
    try:
        try:
            with _stoppable():
                body(run)
            ending = "passed"
        except KeyboardInterrupt:
            ending = "interrupted"
            run.note("interrupted")
        except (RemoteError, LocalError) as error:
            run.note(str(error))
        run.undo.close()
        lost = run.rpo_writes if run.probe is None else _end(run, run.probe)
    except KeyboardInterrupt:  # once more: nothing else is waited for
        last = run.steps[-1]["what"] if run.steps else "nothing"
        click.echo(f"Not everything was undone; the last step was: {last}.", err=True)
        raise click.Abort from None
    if lost or run.left_undone or (run.probe is not None and (lost is None or run.probe.stale)):
        ending = "failed" if ending == "passed" else ending
    _report(run, ending, started, lost)
    return 0 if ending == "passed" else REMOTE_ERROR


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM is taken like Ctrl-C: what was begun is undone."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _end(run: Run, probe: Probe) -> int | None:
    """End the load; how many acknowledged writes are missing."""
    probe.stop()
    for told in list(dict.fromkeys(probe.failures))[:5]:
        run.note(f"a request failed: {told}")
    if probe.stale:
        run.note(f"{probe.stale} reads did not see what had been acknowledged before")
    lost = None
    try:
        lost = probe.lost()
    except RemoteError as error:
        run.note(f"what was lost is not known: {error}")
    if not probe.remove():
        run.note(f"left: {probe.path}, which goes by itself within an hour")
    return lost


def _report(run: Run, ending: str, started: str, lost: int | None) -> None:
    report = {
        "drill": run.drill,
        "ending": ending,
        "started": started,
        "ended": _now(),
        "target": run.target,
        "forced": run.forced,
        "rto_ms": run.rto_ms,
        "rpo_writes": lost,
        "lag_entries": run.lag_entries,
        "requests": run.probe.requests if run.probe else 0,
        "requests_failed": len(run.probe.failures) if run.probe else 0,
        "steps": run.steps[-64:],
        "notes": run.notes[-64:],
    }
    kept = None
    try:
        kept = needed(run.client.call("POST", "sys/drills/history", {"report": report}), "data", "id")
    except RemoteError as error:
        click.echo(
            f"{error}\nThe report could not be kept; `drill history -keep=FILE` takes it as JSON.", err=True
        )
    run.out.show({"id": kept, "report": report}, text(report, kept))


_UNDER_LOAD = ("ms without an acknowledged write", "acknowledged writes lost")
_ISOLATED = ("ms from having the snapshot to the first write", "sampled secrets that differ")


def text(report: dict[str, Any], identity: str | None) -> str:
    """A report for people."""
    measured = _ISOLATED if report["drill"] == "isolated" else _UNDER_LOAD
    requests = f"{report['requests']}, of which {report['requests_failed']} failed"
    rows: list[tuple[str, object]] = [
        ("Drill", " ".join(filter(None, (report["drill"], report["target"])))),
        ("Result", report["ending"] + (" (forced)" if report["forced"] else "")),
        ("Started", report["started"]),
        ("Ended", report["ended"]),
        ("RTO", _told(report["rto_ms"], measured[0])),
        ("RPO", _told(report["rpo_writes"], measured[1])),
        ("Lag before", _told(report["lag_entries"], "commands")),
        ("Requests", requests if report["requests"] else None),
        ("Kept as", identity),
    ]
    steps = [f"  {each['ms']:>7} ms  {each['what']}" for each in report["steps"]]
    notes = [f"  {note}" for note in report["notes"]]
    return "\n".join(
        ["", pairs([row for row in rows if row[1] is not None]), "", "Steps:", *steps]
        + (["", "Notes:", *notes] if notes else [])
    )


def _told(number: int | None, unit: str) -> str | None:
    return None if number is None else f"{number} {unit}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
