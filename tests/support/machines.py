"""A state machine as small as the contract allows: a dict, outcomes by request id, one file for what is durable."""

import json
import os
from pathlib import Path
from typing import Any

from consensus.api import Applied


class DictMachine:
    """Commands are b"key=value". The result is the number of commands applied. `kept` is what a crash leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        assert index == self.index + 1, f"applied {index} after {self.index}"
        self.index = index
        known = self.outcomes.get(request_id.hex())
        if known is not None:
            return known[1]
        text = command.decode()
        key, _, value = text.partition("=")
        self.values[key] = value
        self.history.append((index, text))
        self.outcomes[request_id.hex()] = (index, len(self.history))
        return len(self.history)

    def skip(self, index: int) -> None:
        assert index == self.index + 1, f"skipped {index} after {self.index}"
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
        self._write(self.path, self._dump())
        return self.index

    def snapshot(self, path: Path) -> int:
        dump = self._dump()
        self._write(path, dump)
        return int(json.loads(dump)["index"])

    def stage(self, path: Path) -> None:
        json.loads(path.read_bytes())

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> None:
        fields = json.loads(path.read_bytes())
        self.reset = {**fields, "index": index, "outcomes": {request_id.hex(): (index, None)}}

    def unstage(self) -> None:
        self.reset = None

    def restore(self, path: Path) -> None:
        if self.reset is None:
            self._take(json.loads(path.read_bytes()))
        else:
            self._take(self.reset)
        self.checkpoint()

    def _dump(self) -> bytes:
        fields = {"index": self.index, "history": self.history, "outcomes": self.outcomes}
        return json.dumps(fields | {"values": self.values}).encode()

    def _take(self, fields: dict[str, Any]) -> None:
        self.index, self.values = fields["index"], fields["values"]
        self.history = [(index, text) for index, text in fields["history"]]
        self.outcomes = {key: (index, result) for key, (index, result) in fields["outcomes"].items()}

    @staticmethod
    def _write(path: Path, dump: bytes) -> None:
        tmp = path.with_name(path.name + ".writing")
        tmp.write_bytes(dump)
        os.replace(tmp, path)


class NoCipher:
    """Leaves bytes as they are: consensus tests need no secrecy."""

    def segment(self, salt: bytes) -> "NoCipher":
        return self

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        return plaintext

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        return ciphertext
