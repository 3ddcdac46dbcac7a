"""What the nodes of one run have done, as they and the network tell it, and what must hold of it."""

from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.simulator.loop import Violation
from chaos.simulator.machines import KEYS, Backup, History, LightMachine, Registers
from consensus import wire


def _empty_registers() -> dict[tuple[str, str | None], list[int]]:
    return {(key, None): [0] for key in KEYS}


@dataclass(slots=True)
class Ledger:
    """One run's. `fail` makes the error that ends it."""

    fail: Callable[[str], Violation]
    seen: Counter[str]
    history: dict[int, tuple[str, bool]] = field(default_factory=dict)  # what is applied; is it repeated?
    # where a key got that value
    positions: dict[tuple[str, str | None], list[int]] = field(default_factory=_empty_registers)
    written: dict[str, int] = field(default_factory=dict)  # where; the last time if a restore undid it
    backups: list[Backup] = field(default_factory=list)
    restored_at: dict[int, Backup] = field(default_factory=dict)
    declined_at: set[int] = field(default_factory=set)
    acknowledged: dict[str, int] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)  # of a node in a term
    leaders: dict[int, str] = field(default_factory=dict)  # of a term

    def sent(self, sender: str, receiver: str, frame: wire.Frame) -> None:
        """One vote and one leader a term."""
        if isinstance(frame, wire.Vote | wire.VoteRequest):
            choice = receiver if isinstance(frame, wire.Vote) else sender
            if self.votes.setdefault((sender, frame.term), choice) != choice:
                raise self.fail(f"{sender} voted twice in term {frame.term}")
        if isinstance(frame, wire.Append) and self.leaders.setdefault(frame.term, sender) != sender:
            raise self.fail(f"two leaders in term {frame.term}")

    def applied(self, node_id: str, index: int, text: str, *, repeated: bool) -> None:
        """Every node applies the same at an index. See machines.Witness."""
        known = self.history.setdefault(index, (text, repeated))
        if known != (text, repeated):
            raise self.fail(
                f"{node_id} applies {text}, {repeated=}, at {index}, where another applied {known}"
            )
        if not repeated:
            key, _, value = text.partition("=")
            self.written[text] = max(index, self.written.get(text, 0))
            self._note(key, value, index)

    def restored(self, node_id: str, index: int, machine: Registers) -> None:
        """See machines.Witness. All members make the same of it, and that is a backup."""
        values = {key: machine.read(key) for key in KEYS}
        known = self.restored_at.get(index)
        if known is None:
            history = machine.history if isinstance(machine, LightMachine) else []
            known = next((b for b in self.backups if (b.values, b.history) == (values, history)), None)
            if known is None:
                raise self.fail(f"{node_id} restored at {index} what nobody had backed up: {values}")
            self.restored_at[index] = known
            for key, value in values.items():
                self._note(key, value, index)
        if known.values != values or index in self.history or index in self.declined_at:
            raise self.fail(f"{node_id} restored {values} at {index}, where another has something else")

    def declined(self, index: int) -> None:
        """See machines.Witness."""
        self.seen["declined"] += 1
        self.declined_at.add(index)
        if index in self.restored_at:
            raise self.fail(f"the restore at {index} was declined, and carried out by another")

    def _note(self, key: str, value: str | None, index: int) -> None:
        positions = self.positions.setdefault((key, value), [])
        if index not in positions:
            insort(positions, index)

    def check_history(self, history: History) -> None:
        """What the last restore left, and everything that was acknowledged since; nothing twice."""
        texts = [text for _, text in history]
        if len(texts) != len(set(texts)):
            raise self.fail("a command was applied twice")
        last = max(self.restored_at, default=0)
        kept = self.restored_at[last].history if last else []
        if history[: len(kept)] != kept:
            raise self.fail(f"the history does not begin with what was restored at {last}")
        where = {text: index for index, text in history[len(kept) :]}
        lost = [t for t, index in self.acknowledged.items() if index > last and where.get(t) != index]
        if lost:
            raise self.fail(f"acknowledged, and lost or moved: {lost[:3]}")


@dataclass(frozen=True, slots=True)
class NodeWitness:
    """Tells the ledger whose machine it is."""

    ledger: Ledger
    node_id: str

    def applied(self, index: int, text: str, *, repeated: bool) -> None:
        self.ledger.applied(self.node_id, index, text, repeated=repeated)

    def restored(self, index: int, machine: Registers) -> None:
        self.ledger.restored(self.node_id, index, machine)

    def declined(self, index: int) -> None:
        self.ledger.declined(index)
