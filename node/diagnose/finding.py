"""One thing that was looked at, and what came out."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How it came out; a skipped check could not be made, and says why."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what is the case, and what to do about it."""

    check: str
    level: Level
    message: str
    advice: str = ""


Findings = Iterator[Finding]


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, advice: str) -> Finding:
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str) -> Finding:
    return Finding(check, Level.FAIL, message, advice)


def skipped(check: str, message: str) -> Finding:
    return Finding(check, Level.SKIPPED, message)


def worst(findings: list[Finding]) -> Level:
    """FAIL before WARN before OK; what was skipped says nothing."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
