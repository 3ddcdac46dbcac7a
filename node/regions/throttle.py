"""A cap on what one node sends to other regions: batches of the history and copies of the state, together."""

import asyncio
import time

SLICE_S = 0.5  # what is sent in one go takes no longer than this at the rate: a receiver takes silence for a cut link
SLICE_BYTES_MAX = 1 << 20


class Throttle:
    """Lets bytes pass at a rate, whoever sends them, in the order in which they come; idle time is not saved up."""

    def __init__(self, bytes_per_s: float) -> None:
        """0: without a limit."""
        self.bytes_per_s = bytes_per_s
        self._free_at = 0.0  # monotonic: until then what was let pass is on its way

    def limit(self, bytes_per_s: float) -> None:
        """Another rate from now on; what waits already keeps its turn."""
        self.bytes_per_s = bytes_per_s

    @property
    def slice_bytes(self) -> int:
        """How much to send at most before others have their turn."""
        return (
            max(1, min(SLICE_BYTES_MAX, int(self.bytes_per_s * SLICE_S)))
            if self.bytes_per_s
            else SLICE_BYTES_MAX
        )

    async def let_pass(self, size_bytes: int) -> None:
        """Return when so many bytes may be sent."""
        if not self.bytes_per_s:
            return
        start = max(self._free_at, time.monotonic())
        self._free_at = start + size_bytes / self.bytes_per_s
        await asyncio.sleep(start - time.monotonic())
