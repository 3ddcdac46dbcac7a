"""Where a rehearsal runs: in a directory that is kept if a promise was broken, and gone otherwise."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

PREFIX = "strongroom-chaos-"


class Place:
    """`directory` does not exist yet; it is `name` below `given`, or below a temporary directory of its own."""

    def __init__(self, given: Path | None, name: str) -> None:
        base = given or Path(tempfile.mkdtemp(prefix=PREFIX))
        self.directory = base / name
        self._ours = self.directory if given else base

    def leave(self, say: Callable[[str], None], *, good: bool, promise: str) -> int:
        """Say how it ended, and clear up after a good end; returns the exit code."""
        if not good:
            say(f"FAILED; everything is kept in {self.directory}")
            return 1
        shutil.rmtree(self._ours)
        say(promise)
        return 0
