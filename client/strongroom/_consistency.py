"""What a read may see."""

import math
from dataclasses import dataclass

from strongroom._errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Consistency:
    """One of FRESH, LINEARIZABLE, STALE_OK, or max_staleness(seconds). value: the header's."""

    value: str

    @classmethod
    def max_staleness(cls, seconds: float) -> "Consistency":
        """Everything that was acknowledged longer ago than so many seconds."""
        if not math.isfinite(seconds) or seconds <= 0:
            raise ConfigurationError("max_staleness takes a positive number of seconds")
        return cls(f"max-staleness={math.ceil(seconds * 1000)}ms")


FRESH = Consistency("fresh")  # everything acknowledged in the region before the request; the default
LINEARIZABLE = Consistency("linearizable")  # the same, confirmed by a quorum each time
STALE_OK = Consistency("stale-ok")  # what the node has
