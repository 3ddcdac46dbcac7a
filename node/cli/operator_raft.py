"""`strongroom operator raft ...`: who is in the cluster, and how its leader looks after it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, NATURAL, Group, flag, switch
from node.cli.output import REMOTE_ERROR, LocalError, Output, pairs, table
from node.cli.prompt import secret_line
from node.cli.remote import Prints, remote
from node.cli.secret_output import print_secret

PEM_BYTES_MAX = 64 * 1024
CONFIGURATION = "sys/storage/raft/autopilot/configuration"


@click.group(cls=Group, lazy={"snapshot": "node.cli.operator_snapshot:snapshot"})
def raft() -> None:
    """See and change who is in the cluster."""


@raft.command("list-peers")
@remote(Prints.FORMATS)
def list_peers(client: Client, out: Output) -> int:
    """List the members, as the cluster has agreed on them."""
    doing = "Error reading the raft cluster configuration"
    found = client.read("sys/storage/raft/configuration", doing=doing)
    if found is None:
        click.echo("No raft cluster configuration found", err=True)
        return REMOTE_ERROR
    if not out.table:
        return print_secret(out, found)
    servers = (found["data"].get("config") or {}).get("servers") or ()
    rows = [
        [
            each.get("node_id"),
            each.get("address"),
            "leader" if each.get("leader") else "follower",
            bool(each.get("voter")),
        ]
        for each in servers
    ]
    click.echo(table(("Node", "Address", "State", "Voter"), rows))
    return 0


@raft.command()
@click.argument("leader_api_addr", required=False, default="")
@flag("join-token", help='The token of `operator join-token`; "-": from stdin.')
@flag("leader-ca-cert", default="", help="The leader's CA: PEM text, or @file.")
@flag("leader-client-cert", default="", help="A certificate to show to the leader: PEM text, or @file.")
@flag("leader-client-key", default="", help="Its key: PEM text, or @file.")
@switch("retry", help="Try until it works.")
@switch("non-voter", help="Join without a vote.")
@flag("auto-join-scheme", hidden=True)
@flag("auto-join-port", NATURAL, hidden=True)
@remote(Prints.FORMATS)
def join(client: Client, out: Output, leader_api_addr: str, join_token: str | None, **said: Any) -> int:
    """Make the NEW node at -address a member of the cluster of LEADER_API_ADDR."""
    body: dict[str, Any] = {"leader_api_addr": leader_api_addr}
    for name in ("leader_ca_cert", "leader_client_cert", "leader_client_key"):
        if said[name]:
            body[name] = _pem(said[name])
    body |= {name: True for name in ("retry", "non_voter") if said[name]}
    if join_token:
        body["join_token"] = secret_line(join_token, "Join token")
    doing = "Error joining the node to the Raft cluster"
    answer = client.call("POST", "sys/storage/raft/join", body, doing=doing, with_token=False)
    joined = bool((answer or {}).get("joined"))
    out.show({"joined": joined}, pairs([("Joined", joined)]))
    return 0 if joined else REMOTE_ERROR


def _pem(told: str) -> str:
    if not told.startswith("@"):
        return told
    try:
        with Path(told[1:]).expanduser().open(encoding="ascii") as file:
            return file.read(PEM_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as e:
        raise LocalError(f"{told[1:]} cannot be read: {getattr(e, 'strerror', None) or 'not PEM'}.") from e


@raft.command("remove-peer")
@click.argument("server_id", metavar="NODE_ID")
@remote()
def remove_peer(client: Client, server_id: str) -> int:
    """Remove a member for good. It must not come back with its old data."""
    doing = "Error removing the peer from raft cluster"
    client.call("PUT", "sys/storage/raft/remove-peer", {"server_id": server_id}, doing=doing)
    click.echo("Peer removed successfully!")
    return 0


@raft.command()
@click.argument("server_id", metavar="NODE_ID")
@remote()
def promote(client: Client, server_id: str) -> int:
    """Give a member a vote."""
    client.call("PUT", "sys/storage/raft/promote", {"server_id": server_id}, doing="Error promoting peer")
    click.echo("Peer promoted successfully!")
    return 0


@raft.command()
@click.argument("server_id", metavar="NODE_ID")
@remote()
def demote(client: Client, server_id: str) -> int:
    """Take a member's vote away."""
    client.call("PUT", "sys/storage/raft/demote", {"server_id": server_id}, doing="Error demoting peer")
    click.echo("Peer demoted successfully!")
    return 0


@raft.group()
def autopilot() -> None:
    """See how healthy the members are, and when a dead one is removed."""


@autopilot.command()
@remote(Prints.FORMATS)
def state(client: Client, out: Output) -> int:
    """Show how healthy the members are."""
    found = client.read("sys/storage/raft/autopilot/state", doing="Error checking autopilot state")
    data = (found or {}).get("data")
    if not data:
        click.echo("The server keeps no autopilot state.", err=True)  # in memory: bao says nothing
        return 0
    if not out.table:
        out.value(_go_names(data))
        return 0
    click.echo(_state_text(data))
    return 0


def _go_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """The state under the names that programs know."""
    servers = data.get("servers") or {}
    return {
        "Healthy": data.get("healthy", False),
        "FailureTolerance": data.get("failure_tolerance", 0),
        "Servers": {
            node_id: {
                go: servers[node_id].get(key, 0 if "Last" in go and go != "LastContact" else "")
                for go, key in _SERVER
            }
            for node_id in sorted(servers)
        },
        "Leader": data.get("leader", ""),
        "Voters": data.get("voters"),
        "NonVoters": data.get("non_voters"),
        "Upgrade": data.get("upgrade_info"),
        "OptimisticFailureTolerance": data.get("optimistic_failure_tolerance", 0),
    }


_SERVER = (
    ("ID", "id"), ("Name", "name"), ("Address", "address"), ("NodeStatus", "node_status"),
    ("LastContact", "last_contact"), ("LastTerm", "last_term"), ("LastIndex", "last_index"), ("Healthy", "healthy"),
    ("StableSince", "stable_since"), ("Status", "status"), ("Version", "version"),
    ("UpgradeVersion", "upgrade_version"), ("NodeType", "node_type"),
)  # fmt: skip
_SERVER_LINES = ("Name", "Address", "Status", "NodeStatus", "Healthy", "LastContact", "LastTerm", "LastIndex",
                 "Version", "NodeType")  # fmt: skip


def _state_text(data: Mapping[str, Any]) -> str:
    whole = _go_names(data)
    lines = [
        f"{'Healthy:':<33}{str(whole['Healthy']).lower()}",
        f"{'Failure Tolerance:':<33}{whole['FailureTolerance']}",
        f"{'Leader:':<33}{whole['Leader']}",
        "Voters:",
        *(f"   {node_id}" for node_id in whole["Voters"] or ()),
    ]
    if whole["NonVoters"]:
        lines += ["Non Voters:", *(f"   {node_id}" for node_id in whole["NonVoters"])]
    lines.append("Servers:")
    for node_id, server in whole["Servers"].items():
        lines.append(f"   {node_id}")
        for name in _SERVER_LINES:
            value = str(server[name]).lower() if isinstance(server[name], bool) else server[name]
            title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) + ":"
            lines.append(f"      {title:<19}{value}")
    return "\n".join(lines) + "\n"


@autopilot.command("get-config")
@remote(Prints.FORMATS)
def get_config(client: Client, out: Output) -> int:
    """Show when a dead member is removed, and what counts as healthy."""
    found = client.call("GET", CONFIGURATION)
    data = (found or {}).get("data") or {}
    if not out.table:
        out.value(data)
        return 0
    click.echo(pairs([(title, data.get(key)) for title, key in _CONFIG if key in data]))
    return 0


_CONFIG = (
    ("Cleanup Dead Servers", "cleanup_dead_servers"),
    ("Last Contact Threshold", "last_contact_threshold"),
    ("Dead Server Last Contact Threshold", "dead_server_last_contact_threshold"),
    ("Server Stabilization Time", "server_stabilization_time"),
    ("Min Quorum", "min_quorum"),
    ("Max Trailing Logs", "max_trailing_logs"),
)


@autopilot.command("set-config")
@switch("cleanup-dead-servers", default=None, help="Remove dead members.")
@flag("last-contact-threshold", DURATION, help="Silent for longer is not healthy.")
@flag("dead-server-last-contact-threshold", DURATION, help="Silent for longer is dead.")
@flag("server-stabilization-time", DURATION, help="How long a new member is healthy before it votes.")
@flag("min-quorum", NATURAL, help="So many members always stay.")
@flag("max-trailing-logs", NATURAL, help="Further behind is not healthy.")
@remote()
def set_config(client: Client, **said: Any) -> int:
    """Change it; what is not named stays."""
    client.call("PUT", CONFIGURATION, {name: value for name, value in said.items() if value is not None})
    return 0
