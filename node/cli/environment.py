"""What the environment says: STRONGROOM_*, then VAULT_*, then BAO_*; an empty variable counts as absent."""

import os
from pathlib import Path

PREFIXES = ("STRONGROOM_", "VAULT_", "BAO_")
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})


def environment(name: str) -> str | None:
    """The value of STRONGROOM_<name>, VAULT_<name> or BAO_<name>, whichever is set first."""
    return next((value for prefix in PREFIXES if (value := os.environ.get(prefix + name))), None)


def variable(name: str) -> str | None:
    """The variable that environment(name) is taken from."""
    return next((prefix + name for prefix in PREFIXES if os.environ.get(prefix + name)), None)


def switched_on(name: str) -> bool:
    """The same for a switch."""
    return (environment(name) or "").lower() in _TRUE


def home() -> Path:
    """The user's home directory."""
    return Path.home()
