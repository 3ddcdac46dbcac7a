"""How other processes that remember answers learn that these are outdated: before anybody is told of a change."""

from typing import Protocol


class Marks(Protocol):
    """Told of every change while it is applied, so before it is acknowledged to anybody."""

    def touched(self, mount_id: str, path: str) -> None:
        """A command on this key was applied: what its values were is void."""
        ...

    def cleared(self) -> None:
        """Whatever was derived from any value is void."""
        ...

    def moved(self, position: int, clock_ns: int, epoch: int) -> None:
        """What Machine says of itself now; `epoch` is another one if anything but values may have changed."""
        ...
