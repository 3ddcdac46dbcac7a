"""What it saves to write the journal over zeros: `python -m bench.journal`.

Frames of a busy group's size, each with its sync, go into two files side by side: one with room that was only reserved,
one that was made ready as the journal's next segment is (consensus/spare.py). Some seconds; needs no other program.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from consensus import files
from consensus.journal import SEGMENT_BYTES
from consensus.spare import Spare

FRAME_BYTES = 12_000  # about 25 writes of small values
ROUNDS = 5
FRAMES = 500


@dataclass(slots=True)
class Seen:
    """Seconds of each sync, and of processor for all."""

    syncs_s: list[float] = field(default_factory=list)
    processor_s: float = 0.0

    def line(self, name: str) -> str:
        cuts = statistics.quantiles(self.syncs_s, n=10)
        p50, p90 = round(cuts[4] * 1e6), round(cuts[8] * 1e6)
        processor = round(self.processor_s / len(self.syncs_s) * 1e6)
        return f"{name:<10} sync p50 {p50} us, p90 {p90} us; processor {processor} us a frame"


def reserved(directory: Path) -> tuple[int, Path]:
    """As a segment was begun before there was time to make it ready."""
    path = directory / "reserved"
    fd = files.create_file(path)
    files.preallocate(fd, SEGMENT_BYTES)
    files.sync_file(fd)
    return fd, path


def ready(directory: Path) -> tuple[int, Path]:
    """As a segment begins in a file that was made ready."""
    spare = Spare()
    while not spare.ready:
        spare.prepare(directory, SEGMENT_BYTES)
    taken = spare.take()
    assert taken is not None
    return taken


def fill(fd: int, seen: Seen) -> None:
    """One frame after the other."""
    frame = os.urandom(FRAME_BYTES)
    processor_s = time.process_time()
    for number in range(FRAMES):
        files.write_at(fd, frame, number * FRAME_BYTES)
        began = time.perf_counter()
        files.sync_data(fd)
        seen.syncs_s.append(time.perf_counter() - began)
    seen.processor_s += time.process_time() - processor_s


def main() -> int:
    """Print both, and what one costs of the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--directory", type=Path, help="on the disk that is meant; else a temporary one")
    options = parser.parse_args()
    seen = {"reserved": Seen(), "ready": Seen()}
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        for _ in range(ROUNDS):
            for name, make in (("reserved", reserved), ("ready", ready)):
                fd, path = make(Path(scratch))
                try:
                    fill(fd, seen[name])
                finally:
                    os.close(fd)
                    path.unlink()
    print(*(each.line(name) for name, each in seen.items()), sep="\n")
    medians = [statistics.median(each.syncs_s) for each in seen.values()]
    print(f"a sync over zeros takes {medians[1] / medians[0]:.2f} of one into room that was only reserved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
