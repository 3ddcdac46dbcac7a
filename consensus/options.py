"""The knobs of one Raft group. Defaults are for production; tests shrink the times."""

from dataclasses import dataclass

PROMISE_FRACTION = 0.6  # of election_min_s
LEASE_FRACTION = 0.9  # of promise_s: what is left is for the drift between two members' clocks
READ_LEASE_FRACTION = 0.4  # of election_min_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    """Times in seconds, sizes in bytes, the rest in entries."""

    heartbeat_s: float = 0.1
    election_min_s: float = 1.0
    election_max_s: float = 2.0
    read_leases: bool = True
    compact_entries: int = 100_000
    compact_bytes: int = 64 << 20
    trailing_entries: int = 10_000
    trailing_bytes: int = 16 << 20
    held_entries_max: int = 400_000  # of the log, for a member that is getting a snapshot
    held_bytes_max: int = 256 << 20
    batch_bytes: int = 512 << 10
    batch_entries: int = 2_000
    window_entries: int = 20_000
    backlog_bytes_max: int = 4 << 20
    apply_per_tick_max: int = 256
    apply_commit_entries_max: int = 32_768
    apply_commit_s: float = 8.0
    learner_lag_entries: int = 100
    disk_stall_s: float = 2.0  # a leader whose sync takes longer hands over
    disk_reserve_bytes: int = 64 << 20  # with less room left no new writes are taken
    state_reserve_bytes: int = (
        32 << 20
    )  # with less than this nothing is applied, and the state is not written
    propose_retry_s: float = 2.0
    pending_bytes_max: int = 64 << 20

    @property
    def promise_s(self) -> float:
        """How long a voter that heard a leader votes for nobody else. Leaders are told it, and go by the shortest."""
        return self.election_min_s * PROMISE_FRACTION

    @property
    def lease_s(self) -> float:
        """How long after sending a round that a quorum answered the leader may read alone, at most."""
        return self.promise_s * LEASE_FRACTION

    @property
    def read_lease_s(self) -> float:
        """How long at most a follower may read alone, and how long at most its death delays a commit."""
        return self.election_min_s * READ_LEASE_FRACTION
