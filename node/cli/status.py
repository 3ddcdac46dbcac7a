"""`strongroom status`: is this node open? Exit 0 unsealed, 1 error, 2 sealed: probes rely on it."""

from collections.abc import Mapping
from typing import Any

import click

from node.cli.client import Client, needed
from node.cli.flags import Command
from node.cli.output import LocalError, Output, RemoteError, pairs, table
from node.cli.remote import Prints, remote
from node.cli.secret_output import envelope, print_map_field

SEALED = 2
_ORDER = ("type", "initialized", "sealed", "t", "n", "progress", "nonce", "version", "commit_date", "migration",
          "cluster_name", "cluster_id", "recovery_seal", "recovery_seal_type", "storage_type",
          "build_date")  # fmt: skip
_WHEN_TOLD = frozenset({"cluster_name", "cluster_id", "recovery_seal_type", "storage_type"})
_LEADER_ORDER = ("is_self", "active_time", "leader_address", "leader_cluster_address", "raft_committed_index",
                 "raft_applied_index")  # fmt: skip
_DEFAULTS: dict[str, Any] = {"migration": False, "recovery_seal": False}


@click.command(cls=Command)
@remote(Prints.FIELDS)
def status(client: Client, out: Output) -> int:
    """Show whether a node is sealed. Exit code 0: unsealed, 1: error, 2: sealed."""
    try:
        seal: dict[str, Any] = client.call(
            "GET", "sys/seal-status", doing="Error checking seal status", with_token=False
        )
        sealed = bool(needed(seal, "sealed"))
    except RemoteError as e:
        raise LocalError(str(e)) from e  # 2 means sealed here
    report_seal(client, out, seal)
    return SEALED if sealed else 0


def report_seal(client: Client, out: Output, seal: Mapping[str, Any]) -> None:
    """Print a seal's status with what the node knows about its leader."""
    leader = _leader(client)
    whole = _whole(seal, leader)
    if out.field is not None:
        print_map_field(out, whole)
    else:
        out.show(whole, seal_table(seal, leader))


def _leader(client: Client) -> dict[str, Any]:
    """What sys/leader says; a sealed node does not say, and is one of a cluster."""
    answer = client.send("GET", "sys/leader", with_token=False)
    if answer.status == 503:
        return {"ha_enabled": True}
    return answer.body if answer.status == 200 and isinstance(answer.body, dict) else {}


def _whole(seal: Mapping[str, Any], leader: Mapping[str, Any]) -> dict[str, Any]:
    """Both as one map, in the order and with the gaps that programs know."""
    whole = {
        key: seal.get(key, _DEFAULTS.get(key, "")) for key in _ORDER if seal.get(key) or key not in _WHEN_TOLD
    }
    whole |= {key: value for key, value in seal.items() if key not in whole and key not in _ORDER}
    whole["ha_enabled"] = bool(leader.get("ha_enabled"))
    return whole | {key: leader[key] for key in _LEADER_ORDER if leader.get(key)}


def seal_table(seal: Mapping[str, Any], leader: Mapping[str, Any]) -> str:
    """The same for people."""
    recovery = "Recovery " if seal.get("recovery_seal") else ""
    rows: list[tuple[str, object]] = [
        ("Seal Type", seal.get("type")),
        *([("Recovery Seal Type", seal.get("recovery_seal_type"))] if recovery else ()),
        ("Initialized", seal.get("initialized")),
        ("Sealed", seal.get("sealed")),
        (f"Total {recovery}Shares", seal.get("n")),
        ("Threshold", seal.get("t")),
    ]
    if seal.get("sealed"):
        rows.append(("Unseal Progress", f"{seal.get('progress', 0)}/{seal.get('t', 0)}"))
        rows.append(("Unseal Nonce", seal.get("nonce")))
    if seal.get("migration"):
        rows.append(("Seal Migration in Progress", True))
    rows.append(("Version", seal.get("version")))
    rows += [(title, seal[key]) for title, key in _WHEN_KNOWN if seal.get(key)]
    rows.append(("HA Enabled", bool(leader.get("ha_enabled"))))
    if leader.get("ha_enabled") and not seal.get("sealed"):
        rows += _leader_rows(leader)
    return pairs(rows)


def _leader_rows(leader: Mapping[str, Any]) -> list[tuple[str, object]]:
    own = bool(leader.get("is_self"))
    rows: list[tuple[str, object]] = [
        ("HA Cluster", leader.get("leader_cluster_address")),
        ("HA Mode", "active" if own else "standby"),
    ]
    title, key = ("Active Since", "active_time") if own else ("Active Node Address", "leader_address")
    rows += [(title, leader[key])] if leader.get(key) else []
    titles = (("Raft Committed Index", "raft_committed_index"), ("Raft Applied Index", "raft_applied_index"))
    return rows + [(title, leader[key]) for title, key in titles if leader.get(key)]


_WHEN_KNOWN = (
    ("Build Date", "build_date"),
    ("Commit Date", "commit_date"),
    ("Storage Type", "storage_type"),
    ("Cluster Name", "cluster_name"),
    ("Cluster ID", "cluster_id"),
)


def _told(version: Mapping[str, Any]) -> tuple[Any, Any]:
    """When it was installed, and made: `commit_date` is OpenBao's name for that, `build_date` Vault's."""
    return version.get("timestamp_installed"), version.get("commit_date") or version.get("build_date")


@click.command("version-history", cls=Command)
@click.argument("ignored", nargs=-1, metavar="")
@remote(Prints.FORMATS)
def version_history(client: Client, out: Output, ignored: tuple[str, ...]) -> int:
    """Show which versions the store ran, and since when."""
    doing = "Error reading version history"
    found = client.call("GET", "sys/version-history", query={"list": "true"}, doing=doing)
    data = needed(found, "data")
    about = data.get("key_info") or {}
    rows = [[version, *_told(about.get(version, {}))] for version in data.get("keys") or ()]
    headings = ("Version", "Installation Time", "Commit Date")
    out.show(envelope(found), table(headings, rows, gap="  "))
    click.echo("Note: only the version that runs now is known, and since when there is a store.", err=True)
    return 0
