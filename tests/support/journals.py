"""Journals to test with: small segments, a real cipher, and entries whose content says which they are."""

from pathlib import Path

from support.ciphers import AesCipher

from consensus.api import Member
from consensus.journal import Base, Entry, HardState, Journal, Recovered

OWNER = "c1/n1/inc1"
MEMBERS = (Member("n1", "h1:1"), Member("n2", "h2:2"), Member("n3", "h3:3"))
ZERO = Base(0, 0, MEMBERS)
SMALL = 16 << 10  # bytes in a segment


def entry(index: int, term: int = 1, size: int = 100) -> Entry:
    return b"%d.%d." % (index, term) + b"x" * size, index, term


def create(directory: Path, **options: object) -> Journal:
    arguments = {"base": ZERO, "segment_bytes": SMALL, "owner": OWNER, "cipher": AesCipher()} | options
    return Journal.create(directory, **arguments)


def reopen(directory: Path, **options: object) -> Recovered:
    arguments = {"segment_bytes": SMALL, "owner": OWNER, "cipher": AesCipher()} | options
    journal, recovered = Journal.open(directory, **arguments)
    journal.close()
    return recovered


def fill(journal: Journal, first: int, last: int, *, term: int = 1, group: int = 10) -> None:
    """Entries first to last, a frame for every `group` of them."""
    for index in range(first, last + 1):
        journal.append(entry(index, term))
        if index % group == 0 or index == last:
            journal.sync()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


def write_journal(tmp_path: Path) -> tuple[Path, int]:
    """A closed journal of 300 entries in term 1, then a vote in term 4; and where its last frame ends."""
    ends: list[tuple[Path, int]] = []
    directory = tmp_path / "raft"
    journal = create(directory, on_durable=lambda path, end: ends.append((path, end)))
    fill(journal, 1, 300)
    journal.set_hard_state(HardState(4, "n2"))
    journal.sync()
    journal.close()
    assert len(segments(directory)) >= 3
    return directory, ends[-1][1]


ALL = [entry(index) for index in range(1, 301)]
