"""State machine and cipher of tests: those that the simulator runs."""

from chaos.simulator.machines import PIN, PINNED, NoCipher
from chaos.simulator.machines import LightMachine as DictMachine

__all__ = ["PIN", "PINNED", "DictMachine", "NoCipher"]
