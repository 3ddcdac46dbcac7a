"""State machines for simulated nodes: registers, each with the text that was last written to it.

The light one is as small as the contract of consensus.api allows; the other is the store's own, where a register is
a policy. Both keep in a directory what a crash leaves of them.
"""

import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from consensus.api import Applied, StateMachine
from consensus.records import invariant
from storage import command as c
from storage.database import Database
from storage.machine import Machine
from storage.outcome import Done, Outcome

KEY = b"k" * 32
KEYS = ("r0", "r1", "r2")
PIN, PINNED = (
    "pin",
    ".yes",
)  # a register whose text may end so: then no backup takes the place of the light state
DECLINED = "declined"
History = list[tuple[int, str]]


class Witness(Protocol):
    """Whom a node's machine tells what becomes of it."""

    def applied(self, index: int, text: str, *, repeated: bool) -> None:
        """`text` is what the entry sets; `repeated`: the request was applied before, so it did nothing now."""
        ...

    def restored(self, index: int, machine: "Registers") -> None:
        """The entry at `index` put a backup in place of the whole state."""
        ...

    def declined(self, index: int) -> None:
        """The entry at `index` would have done so, had the state not been pinned."""
        ...


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of a state, and what was in it. `history` is what the light machine keeps of it."""

    path: Path
    values: dict[str, str | None]
    history: History


class Registers(StateMachine, Protocol):
    """What a simulated node runs."""

    def command(self, key: str, value: str, time_ns: int) -> bytes:
        """The bytes that set `key`; `time_ns` is the proposer's wall clock."""
        ...

    def read(self, key: str) -> str | None:
        """What this node shows."""
        ...

    @property
    def staged(self) -> bool:
        """A snapshot is laid ready: checkpoint() and snapshot() would wait."""
        ...

    def digest(self) -> str:
        """Equal for equal states."""
        ...

    def back_up(self, path: Path) -> Backup:
        """Write the present state to a new file."""
        ...

    def crash(self, *, power_lost: bool) -> None:
        """Leave the disk as a kill (or a power cut) leaves it. Not to be used any more."""
        ...


class LightMachine:
    """Commands are b"key=value". The result is the number of commands applied. `path` is what a crash leaves."""

    def __init__(self, path: Path, witness: Witness | None = None) -> None:
        self.path, self._witness = path, witness
        self._writing = threading.Lock()  # a checkpoint may be under way in a thread when restore() writes
        self.values: dict[str, str] = {}
        self.history: list[tuple[int, str]] = []
        self.outcomes: dict[str, tuple[int, Any]] = {}
        self.index = 0
        self.reset: dict[str, Any] | None = None  # what stage_reset() laid ready
        if path.exists():
            self._take(json.loads(path.read_bytes()))

    @property
    def applied_index(self) -> int:
        return self.index

    def apply(self, index: int, request_id: bytes, command: bytes) -> Any:
        self.skip(index)
        text, known = command.decode(), self.outcome(request_id)
        if self._witness is not None:
            self._witness.applied(index, text, repeated=known is not None)
        if known is not None:
            return known.result
        key, _, value = text.partition("=")
        self.values[key] = value
        self.history.append((index, text))
        self.outcomes[request_id.hex()] = (index, len(self.history))
        return len(self.history)

    def skip(self, index: int) -> None:
        invariant(index == self.index + 1, f"entry {index} follows {self.index}")
        self.index = index

    def outcome(self, request_id: bytes) -> Applied | None:
        known = self.outcomes.get(request_id.hex())
        return None if known is None else Applied(*known)

    def commit(self) -> None:
        """Nothing is written here: what is durable is what checkpoint() wrote."""

    def commit_soon(self) -> bool:
        self.commit()
        return True

    def checkpoint(self) -> int:
        return self._write(self.path)

    def snapshot(self, path: Path) -> int:
        return self._write(path)

    def stage(self, path: Path) -> None:
        json.loads(path.read_bytes())

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> bool:
        fields = json.loads(path.read_bytes())
        if self.values.get(PIN, "").endswith(PINNED):
            return False
        self.reset = {
            **fields,
            "index": index,
            "outcomes": fields["outcomes"] | {request_id.hex(): (index, None)},
        }
        return True

    def decline(self, index: int, request_id: bytes) -> None:
        self.skip(index)
        self.outcomes[request_id.hex()] = (index, DECLINED)
        if self._witness is not None:
            self._witness.declined(index)

    def declined(self, request_id: bytes) -> bool:
        known = self.outcome(request_id)
        return known is not None and known.result == DECLINED

    def unstage(self) -> None:
        self.reset = None

    def restore(self, path: Path) -> None:
        self._take(json.loads(path.read_bytes()) if self.reset is None else self.reset)
        self.checkpoint()
        if self.reset is not None and self._witness is not None:
            self._witness.restored(self.index, self)

    def back_up(self, path: Path) -> Backup:
        self.snapshot(path)
        return Backup(path, {key: self.read(key) for key in KEYS}, list(self.history))

    def command(self, key: str, value: str, time_ns: int) -> bytes:
        del time_ns
        return f"{key}={value}".encode()

    def read(self, key: str) -> str | None:
        return self.values.get(key)

    @property
    def staged(self) -> bool:
        return False

    def digest(self) -> str:
        return json.dumps(self.history)

    def crash(self, *, power_lost: bool) -> None:
        """What is durable is there already."""

    def _take(self, fields: dict[str, Any]) -> None:
        self.index, self.values = fields["index"], fields["values"]
        self.history = [(index, text) for index, text in fields["history"]]
        self.outcomes = {key: (index, result) for key, (index, result) in fields["outcomes"].items()}

    def _write(self, path: Path) -> int:
        """The index of what was written: outside the simulator this runs beside apply()."""
        with self._writing:
            fields = {"index": self.index, "history": self.history, "outcomes": self.outcomes}
            dump = json.dumps(fields | {"values": self.values})
            tmp = path.with_name(path.name + ".writing")
            tmp.write_text(dump)
            os.replace(tmp, path)
        return int(json.loads(dump)["index"])


class StoreMachine(Machine):
    """The store's own, over its encrypted database."""

    def __init__(self, path: Path, witness: Witness) -> None:
        self._path, self._kept, self._witness = path, path.with_name(path.name + ".kept"), witness
        self._reset = False
        super().__init__(Database(path, key=KEY))

    def apply(self, index: int, request_id: bytes, command: bytes) -> Outcome:
        repeated = self.outcome(request_id) is not None
        outcome = super().apply(index, request_id, command)
        decoded = c.decode(command)
        if isinstance(decoded, c.PolicyPut) and isinstance(outcome, Done):  # else its stamp was too old
            self._witness.applied(index, f"{decoded.name}={decoded.text}", repeated=repeated)
        return outcome

    def commit_soon(self) -> bool:
        """At once: there is no thread on virtual time."""
        self.commit()
        return True

    def checkpoint(self) -> int:
        index = super().checkpoint()
        shutil.copyfile(self._path, self._kept)
        return index

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> bool:
        self._reset = super().stage_reset(path, index, request_id)
        return self._reset

    def unstage(self) -> None:
        self._reset = False
        super().unstage()

    def restore(self, path: Path) -> None:
        super().restore(path)
        shutil.copyfile(self._path, self._kept)
        if self._reset:
            self._witness.restored(self.applied_index, self)

    def back_up(self, path: Path) -> Backup:
        self.commit()
        self.snapshot(path)
        return Backup(path, {key: self.read(key) for key in KEYS}, [])

    def command(self, key: str, value: str, time_ns: int) -> bytes:
        return c.encode(c.PolicyPut(max(time_ns, self.clock_ns), key, value))

    def read(self, key: str) -> str | None:
        return self.reads.policy(key)

    @property
    def staged(self) -> bool:
        return self._db._staged is not None

    def digest(self) -> str:
        return self.state_digest()

    def crash(self, *, power_lost: bool) -> None:
        self.unstage()
        self._db.rollback()
        self._db.close()
        if power_lost:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            if self._kept.exists():
                shutil.copyfile(self._kept, self._path)


class NoCipher:
    """Leaves bytes as they are: what is simulated here needs no secrecy."""

    def segment(self, salt: bytes) -> "NoCipher":
        return self

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        return plaintext

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        return ciphertext
