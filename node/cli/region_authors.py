"""Who wrote what was set aside: the audit records of a diverged region, found by path, version and time.

A command does not know who it is of; the record of the request that made it does. Its path, for a written secret also
the version that was answered, and the moment are in clear in the audit file of the node that took the request, and of
the node that ordered it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from node.cli.output import LocalError

WITHIN_S = 120.0  # from the command's stamp to the record of the answer, retries included
LINE_BYTES_MAX = 16 << 20
_PREFIXES = ("data/", "", "metadata/", "delete/", "undelete/", "destroy/")

Entry = Mapping[str, Any]


def find(entries: Iterable[Entry], files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """By the entry's id, who wrote it. Raises LocalError for a file that cannot be read."""
    waiting: dict[str, list[Entry]] = {}
    for entry in entries:
        for path in _paths(entry):
            waiting.setdefault(path, []).append(entry)
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for record in _answers(file):
            for entry in waiting.get(record["request"].get("path", ""), ()):
                if entry["id"] not in found and _is_of(entry, record):
                    found[entry["id"]] = _author(record)
    return found


def _paths(entry: Entry) -> set[str]:
    """Where a request went that could have made it."""
    if entry.get("name") is not None:
        return {f"sys/policies/acl/{entry['name']}", f"sys/policy/{entry['name']}"}
    if not entry.get("mount") or entry.get("path") is None:
        return set()
    return {f"{entry['mount']}{prefix}{entry['path']}" for prefix in _PREFIXES}


def _answers(file: Path) -> Iterator[dict[str, Any]]:
    """The records of answers that were no errors."""
    try:
        with file.open("rb") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                record = _parsed(line) if b'"type":"response"' in line else None
                if record is not None and "error" not in record:
                    yield record
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror or error}.") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # the last line of a node that was killed
        return None
    usable = isinstance(record, dict) and isinstance(record.get("request"), dict) and "time" in record
    return record if usable else None


def _is_of(entry: Entry, record: Mapping[str, Any]) -> bool:
    if "version" in entry:
        data = (record.get("response") or {}).get("data") or {}
        # KV version 1 answers none
        if data.get("version", entry["version"]) != entry["version"]:
            return False
    if record["request"].get("operation") not in ("create", "update", "patch", "delete"):
        return False
    age_s = datetime.fromisoformat(record["time"]).timestamp() - float(entry["time_ns"]) / 10**9
    return -1.0 <= age_s <= WITHIN_S


def _author(record: Mapping[str, Any]) -> dict[str, Any]:
    auth, request = record.get("auth") or {}, record["request"]
    return {
        "accessor": auth.get("accessor", ""),
        "display_name": auth.get("display_name", ""),
        "remote_address": request.get("remote_address", ""),
        "audit_request_id": request.get("id", ""),
        "audit_time": record["time"],
    }
