"""What the leader goes by when it looks after the members; kept in the store, with Vault's names and defaults."""

from typing import Any

import msgspec

from node.auth import fields
from node.auth.fields import SECOND_NS, go_duration
from node.errors import InvalidRequest
from node.kept import Kept

MIN_QUORUM_MIN = 3
DEAD_S_MIN = 60

_DURATIONS = ("last_contact_threshold", "dead_server_last_contact_threshold", "server_stabilization_time")


class Settings(msgspec.Struct, frozen=True):
    """Durations in seconds."""

    cleanup_dead_servers: bool = False
    last_contact_threshold: float = 10.0
    dead_server_last_contact_threshold: float = 86_400.0
    server_stabilization_time: float = 0.0  # Vault's is 10 s: a node that has caught up is of use at once
    min_quorum: int = 0
    max_trailing_logs: int = 1000

    def changed(self, data: dict[str, Any]) -> "Settings":
        """With what a request says. Raises InvalidRequest."""
        told: dict[str, Any] = {}
        for name in _DURATIONS:
            if name in data:
                told[name] = fields.duration_ns(data[name], name) / SECOND_NS
        for name in ("min_quorum", "max_trailing_logs"):
            if name in data:
                told[name] = fields.integer(data[name], name)
                if told[name] < 0:
                    raise InvalidRequest(f"{name} must not be negative")
        if "cleanup_dead_servers" in data:
            told["cleanup_dead_servers"] = fields.boolean(
                data["cleanup_dead_servers"], "cleanup_dead_servers"
            )
        found = msgspec.structs.replace(self, **told)
        if found.cleanup_dead_servers and found.min_quorum < MIN_QUORUM_MIN:
            raise InvalidRequest(
                "min_quorum must be set when cleanup_dead_servers is set and it should at least be"
                f" {MIN_QUORUM_MIN}; cleanup_dead_servers: true, min_quorum: {found.min_quorum:#x}"
            )
        dead_s = found.dead_server_last_contact_threshold
        if "dead_server_last_contact_threshold" in told and dead_s < DEAD_S_MIN:
            raise InvalidRequest(
                f"dead_server_last_contact_threshold should not be set to less than 1m; received: {dead_s:g}"
            )
        return found

    def shown(self) -> dict[str, Any]:
        """As the API answers it."""
        return {
            name: go_duration(int(value * SECOND_NS)) if name in _DURATIONS else value
            for name, value in msgspec.structs.asdict(self).items()
        }


KEPT = Kept("own:autopilot", "configuration", Settings())
