"""State machine and cipher of tests: those that the simulator runs."""

from chaos.simulator.machines import LightMachine as DictMachine
from chaos.simulator.machines import NoCipher

__all__ = ["DictMachine", "NoCipher"]
