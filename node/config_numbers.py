"""Durations, sizes and counts of a configuration, and the bounds that they must keep. All raise ConfigError."""

import re
from typing import Any

from node.config_schema import ConfigError, Duration, FileSettings, Raft, Tcp

CACHE_MIB_MAX = 64 * 1024
EVENT_SUBSCRIBERS_MAX = 1_000_000

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Duration, *, where: str) -> float:
    """A duration in seconds: a number, or text such as "100ms", "30s", "1h30m"."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return float(value)
    if isinstance(value, str):
        parts = _DURATION_PART.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return sum(float(number) * _DURATION_S[unit] for number, unit in parts)
        raise ConfigError(f'{where} is "{value}"; a duration is written "100ms", "30s" or "1h30m".')
    if value < 0:
        raise ConfigError(f"{where} is {value}, but a duration cannot be negative.")
    return float(value)


def raft_timing(raft: Raft) -> tuple[float, float]:
    """Heartbeat and election timeout, in seconds."""
    heartbeat_s = seconds(raft.heartbeat, where="raft.heartbeat")
    election_timeout_s = seconds(raft.election_timeout, where="raft.election_timeout")
    if not 0 < heartbeat_s * 3 <= election_timeout_s:
        raise ConfigError(
            "raft.election_timeout must be at least three heartbeats, and both more than zero: a follower "
            "that gives up after one lost heartbeat never lets a leader work."
        )
    return heartbeat_s, election_timeout_s


def lease_ttls(file: FileSettings) -> tuple[int, int]:
    """The default and the longest, in seconds."""
    default_s = int(seconds(file.default_lease_ttl, where="default_lease_ttl"))
    max_s = int(seconds(file.max_lease_ttl, where="max_lease_ttl"))
    if not 0 < default_s <= max_s:
        raise ConfigError("default_lease_ttl must be more than zero and at most max_lease_ttl.")
    return default_s, max_s


def request_limits(blocks: list[Tcp]) -> dict[str, Any]:
    """The smallest of what the listeners say, where any does."""
    sizes = [_size_bytes(tcp.max_request_size) for tcp in blocks]
    durations = [seconds(tcp.max_request_duration, where="max_request_duration") for tcp in blocks]
    limits: dict[str, Any] = {}
    if any(sizes):
        limits["body_bytes_max"] = min(size for size in sizes if size)
    if any(durations):
        limits["request_timeout_s"] = min(duration for duration in durations if duration)
    return limits


def _size_bytes(value: int | str) -> int:
    if (isinstance(value, str) and not value.isascii()) or not str(value).isdigit():
        raise ConfigError(f'max_request_size is "{value}"; it must be a number of bytes.')
    return int(value)


def event_subscribers(count: int) -> int:
    """How many there may be."""
    if not 0 <= count <= EVENT_SUBSCRIBERS_MAX:
        raise ConfigError(f"event_subscribers_max is {count}; it must be 0 to {EVENT_SUBSCRIBERS_MAX}.")
    return count


def cache_bytes(mib: int, name: str) -> int:
    """How much is kept in memory, in bytes; `name` is the file's key."""
    if not 0 <= mib <= CACHE_MIB_MAX:
        raise ConfigError(f"{name} is {mib}; it must be 0 (keep none) to {CACHE_MIB_MAX}.")
    return mib * 1024 * 1024
