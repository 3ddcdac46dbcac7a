"""What a node last heard from each other region, and what that says of now."""

from collections import deque
from dataclasses import dataclass, field

from node.regions.stream import Standing

TOLD_MAX = 512  # positions of a region that this node has not reached yet: enough for two minutes


@dataclass(slots=True)
class Contact:
    """What this node last heard from another region; times are monotonic seconds.

    An answer may come late: what it says is only known to have been so after it was asked for.
    """

    standing: Standing
    heard_at: float
    level_at: float | None = None  # a time up to which this node holds all that the region had
    told: deque[tuple[int, float]] = field(
        default_factory=deque
    )  # positions not reached yet, and when asked for

    def answered(self, began: float) -> None:
        """`standing` answers a question of that time."""
        self.heard_at = began
        if len(self.told) < TOLD_MAX:
            self.told.append((self.standing.position, began))

    def reached(self, position: int) -> None:
        """This node is at `position`."""
        while self.told and self.told[0][0] <= position:
            self.level_at = self.told.popleft()[1]
