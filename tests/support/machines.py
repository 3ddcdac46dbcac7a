"""State machine and cipher of tests: those that the simulator runs. And how one of its calls is made to last."""

import threading
from typing import Any

import pytest
from support.patience import PATIENCE_S

from chaos.simulator.machines import PIN, PINNED, NoCipher
from chaos.simulator.machines import LightMachine as DictMachine

__all__ = ["PIN", "PINNED", "DictMachine", "Held", "NoCipher"]


class Held:
    """Calls of one of the machine's methods, from now on: each waits, in its thread, until all are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.machines: set[DictMachine] = set()  # whose call has begun
        self._go_on = threading.Event()
        real = getattr(DictMachine, name)

        def call(machine: DictMachine, *arguments: object) -> Any:
            self.machines.add(machine)
            assert self._go_on.wait(PATIENCE_S), f"nobody else had a turn during {name}"
            return real(machine, *arguments)

        monkeypatch.setattr(DictMachine, name, call)

    def let_go(self) -> None:
        self._go_on.set()
