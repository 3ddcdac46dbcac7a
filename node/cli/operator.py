"""`strongroom operator ...`: what the people who run the store do to it."""

from typing import Any

import click

from node.cli.client import Client, needed
from node.cli.flags import Group, flag, switch
from node.cli.output import Output, RemoteError, columns, table
from node.cli.prompt import secret_line
from node.cli.remote import Prints, remote
from node.cli.status import report_seal
from node.cli.values import rfc822

_LAZY = {
    "init": "node.cli.operator_init:init",
    "rekey": "node.cli.operator_rekey:rekey",
    "rotate-keys": "node.cli.operator_rekey:rotate_keys",
    "generate-root": "node.cli.operator_root:generate_root",
    "raft": "node.cli.operator_raft:raft",
    "diagnose": "node.cli.operator_diagnose:diagnose",
    "remove-peer": "node.cli.operator_raft:remove_peer",
}


@click.group(cls=Group, lazy=_LAZY)
def operator() -> None:
    """Initialise, unseal, seal, rotate keys, and change who is in the cluster."""


@operator.command()
@click.argument("key", required=False)
@switch("reset", help="Forget the keys given so far.")
@switch("migrate", help="The key is part of moving to another seal.")
@remote(Prints.FORMATS)
def unseal(client: Client, out: Output, key: str | None, reset: bool, migrate: bool) -> int:
    """Give one unseal key to one node. Without KEY it is asked for, or read from a pipe."""
    body: dict[str, Any] = {"reset": True}
    if not reset:
        given = secret_line(key, "Unseal Key", interactive=client.interactive)
        body = {"key": given, "reset": False, "migrate": migrate}
    doing = "Error resetting unseal process" if reset else "Error unsealing"
    report_seal(client, out, client.call("PUT", "sys/unseal", body, doing=doing, with_token=False))
    return 0


@operator.command()
@remote()
def seal(client: Client) -> None:
    """Seal a node: it forgets its keys and serves nothing until it is unsealed."""
    client.call("PUT", "sys/seal", doing="Error sealing")
    click.echo("Success! Vault is sealed.")


@operator.command("step-down")
@remote()
def step_down(client: Client) -> None:
    """Make the leader hand over to another node."""
    client.call("PUT", "sys/step-down", doing="Error stepping down")
    click.echo(f"Success! Stepped down: {client.address}")


@operator.command("key-status")
@remote(Prints.FORMATS)
def key_status(client: Client, out: Output) -> int:
    """Show the term of the key that encrypts what is stored now."""
    _print_key_status(client, out)
    return 0


@operator.command()
@remote(Prints.FORMATS)
def rotate(client: Client, out: Output) -> int:
    """Make a new key for what is stored from now on. Older data stays readable."""
    answer = client.send("POST", "sys/rotate/keyring")
    if answer.status in (404, 405):  # Vault, and OpenBao before 2.4
        client.call("PUT", "sys/rotate", doing="Error rotating key")
    else:
        client.checked(answer, "POST", "sys/rotate/keyring", doing="Error rotating key")
    out.say("Success! Rotated key\n")
    _print_key_status(client, out)
    return 0


def _print_key_status(client: Client, out: Output) -> None:
    body = client.call("GET", "sys/key-status", doing="Error reading key status")
    data = body.get("data", body) if isinstance(body, dict) else {}
    whole = {key: data.get(key) for key in ("term", "install_time", "encryptions") if key in data}
    text = columns(
        [
            ["Key Term", str(data.get("term"))],
            ["Install Time", rfc822(str(data.get("install_time", "")))],
            ["Encryption Count", str(data.get("encryptions", "n/a"))],
        ]
    )
    out.show(whole, text)


@operator.command()
@remote(Prints.FORMATS)
def members(client: Client, out: Output) -> int:
    """List the nodes that are part of the cluster now."""
    body = client.call("GET", "sys/ha-status")
    data = body.get("data", body) if isinstance(body, dict) else {}
    nodes = data.get("nodes") or []
    rows = [
        [
            node.get("hostname"),
            node.get("api_address"),
            node.get("cluster_address"),
            bool(node.get("active_node")),
            node.get("version"),
            node.get("upgrade_version"),
            str(node["last_echo"]).partition(".")[0].removesuffix("Z") + "Z"
            if node.get("last_echo")
            else None,
        ]
        for node in nodes
    ]
    headings = (
        "Host Name",
        "API Address",
        "Cluster Address",
        "Active Node",
        "Version",
        "Upgrade Version",
        "Last Echo",
    )
    out.show(
        {"Nodes": [{key: node[key] for key in _NODE if key in node} for node in nodes]}, table(headings, rows)
    )
    return 0


_NODE = (
    "hostname",
    "api_address",
    "cluster_address",
    "active_node",
    "last_echo",
    "version",
    "upgrade_version",
)


@operator.command("join-token")
@flag("ttl", default="10m", help="How long the token admits a node.  [default: 10m]")
@remote(Prints.FORMATS)
def join_token(client: Client, out: Output, ttl: str) -> None:
    """Make a token that admits one node, once. Give it to `operator join` at that node."""
    body = client.call("POST", "sys/cluster/join-token", {"ttl": ttl}, doing="Error making a join token")
    token = needed(body, "data", "token")
    out.show(body["data"], token)


@operator.command()
@flag("join-token", required=True, variable="token", help='"-": from stdin.')
@flag("leader-api-addr", default="", help="A node of the cluster, https://host:port.")
@remote()
def join(client: Client, token: str, leader_api_addr: str) -> None:
    """Make the NEW node at -address a member of an existing cluster.

    \b
    strongroom operator join-token | strongroom operator join -address https://new:8200 -join-token - \\
        -leader-api-addr https://old:8200
    """
    body = {"leader_api_addr": leader_api_addr, "join_token": secret_line(token, "Join token")}
    answer: dict[str, Any] = client.call(
        "POST", "sys/storage/raft/join", body, doing="Error joining", with_token=False
    )
    if not needed(answer, "joined"):
        raise RemoteError(f"{client.address} did not join, and did not say why.")
    click.echo(f"{client.address} has joined.")
