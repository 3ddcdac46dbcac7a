"""What a region goes by towards the others, changed while it runs; kept in the store, for its own nodes alone."""

from typing import Any

import msgspec

from node.auth import fields
from node.auth.fields import SECOND_NS, go_duration
from node.config_regions import bandwidth_bytes_per_s
from node.config_schema import ConfigError
from node.errors import InvalidRequest
from node.kept import Kept

UNLIMITED = "unlimited"
SWITCHOVER_LAG_MAX = 10_000  # commands: more take too long to hand over while nobody accepts writes
LAG_COMMANDS_MAX = 1_000_000
LAG_S_MAX = 30 * 24 * 3600.0


class Settings(msgspec.Struct, frozen=True):
    """`bandwidth` is "" where each node's own configuration says it, and each node keeps to it by itself.

    `switchover_max_lag`: so many commands a region may be behind that this one hands over to. `promote_max_lag`: of
    what the primary had, the latest so many seconds may be missing where a promotion does not say how much.
    """

    bandwidth: str = ""
    switchover_max_lag: int = SWITCHOVER_LAG_MAX
    promote_max_lag: float = 0.0

    def changed(self, data: dict[str, Any]) -> "Settings":
        """With what a request says; what it does not name stays. Raises InvalidRequest."""
        unknown = sorted(data.keys() - set(self.__struct_fields__))
        if unknown or not data:
            raise InvalidRequest(
                f"{', '.join(unknown) or 'nothing'}: settings are {', '.join(self.__struct_fields__)}"
            )
        told: dict[str, Any] = {}
        if "bandwidth" in data:
            told["bandwidth"] = _bandwidth(fields.text(data["bandwidth"], "bandwidth"))
        if "switchover_max_lag" in data:
            told["switchover_max_lag"] = fields.integer(data["switchover_max_lag"], "switchover_max_lag")
            if not 0 <= told["switchover_max_lag"] <= LAG_COMMANDS_MAX:
                raise InvalidRequest(f"switchover_max_lag must be from 0 to {LAG_COMMANDS_MAX} commands")
        if "promote_max_lag" in data:
            lag_ns = fields.duration_ns(data["promote_max_lag"], "promote_max_lag")
            told["promote_max_lag"] = lag_ns / SECOND_NS
            if not 0 <= told["promote_max_lag"] <= LAG_S_MAX:
                raise InvalidRequest(f"promote_max_lag must be from 0 to {LAG_S_MAX:.0f} seconds")
        return msgspec.structs.replace(self, **told)

    def shown(self) -> dict[str, Any]:
        """As the API answers it."""
        told = msgspec.structs.asdict(self)
        return told | {"promote_max_lag": go_duration(int(self.promote_max_lag * SECOND_NS))}

    def bytes_per_s(self, configured: float) -> float:
        """What a node sends at most whose own configuration says `configured`; 0.0: as much as it can."""
        if not self.bandwidth:
            return configured
        return 0.0 if self.bandwidth == UNLIMITED else bandwidth_bytes_per_s(self.bandwidth, "bandwidth")


def _bandwidth(text: str) -> str:
    """Raises InvalidRequest."""
    if text and text != UNLIMITED:
        try:
            bandwidth_bytes_per_s(text, "bandwidth")
        except ConfigError as error:
            raise InvalidRequest(
                f'{error} "{UNLIMITED}" is no cap, "" what each node\'s configuration says.'
            ) from None
    return text


KEPT = Kept("own:regions", "settings", Settings())
