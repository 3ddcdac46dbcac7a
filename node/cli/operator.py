"""`strongroom operator ...`: what the people who run the store do to it."""

import sys
from typing import Any

import click

from node.cli.client import Client, remote
from node.cli.output import LocalError, RemoteError, format_option, print_json, table
from node.cli.status import seal_table

NOT_INITIALIZED = 2
LINE_CHARS_MAX = 8192


@click.group()
def operator() -> None:
    """Initialise, unseal, seal, and change who is in the cluster."""


@operator.command()
@click.option("-key-shares", "--key-shares", type=click.IntRange(1, 255), default=5, show_default=True)
@click.option("-key-threshold", "--key-threshold", type=click.IntRange(1, 255), default=3, show_default=True)
@click.option(
    "-status", "--status", "only_ask", is_flag=True, help="Only ask. Exit code 0: initialised, 2: not."
)
@format_option
@remote
def init(client: Client, key_shares: int, key_threshold: int, only_ask: bool, format_: str) -> int:
    """Initialise a new store, once, at its first node.

    The keys and the root token are printed here and nowhere else.
    """
    if only_ask:
        done = bool(client.call("GET", "/v1/sys/init", with_token=False)["initialized"])
        click.echo("The store is initialised." if done else "The store is not initialised.")
        return 0 if done else NOT_INITIALIZED
    asked = {"secret_shares": key_shares, "secret_threshold": key_threshold}
    answer: dict[str, Any] = client.call("PUT", "/v1/sys/init", asked, with_token=False)
    if format_ == "json":
        print_json(_init_json(answer, key_threshold))
        return 0
    for number, key in enumerate(answer["keys_base64"], 1):
        click.echo(f"Unseal Key {number}: {key}")
    click.echo(f"Initial Root Token: {answer['root_token']}\n")
    if answer["keys_base64"]:
        click.echo(
            f"Give the keys to {len(answer['keys_base64'])} different people. Any {key_threshold} of them open the\n"
            "store after a start; with fewer, nobody can, and nothing can be recovered."
        )
    else:
        click.echo(
            "The store opens by itself with the seal's key file: keep that file's copy in a safe place."
        )
    return 0


def _init_json(answer: dict[str, Any], threshold: int) -> dict[str, Any]:
    """The names that scripts for `vault operator init -format=json` look for."""
    return {
        "unseal_keys_b64": answer["keys_base64"],
        "unseal_keys_hex": answer["keys"],
        "unseal_shares": len(answer["keys"]),
        "unseal_threshold": threshold if answer["keys"] else 0,
        "root_token": answer["root_token"],
    }


@operator.command()
@click.argument("key", required=False)
@click.option("-reset", "--reset", is_flag=True, help="Forget the keys given so far.")
@format_option
@remote
def unseal(client: Client, key: str | None, reset: bool, format_: str) -> int:
    """Give one unseal key to one node. Without KEY it is asked for, or read from a pipe."""
    body = {"reset": True} if reset else {"key": _secret_line(key, "Unseal Key (will be hidden)")}
    seal: dict[str, Any] = client.call("PUT", "/v1/sys/unseal", body, with_token=False)
    if format_ == "json":
        print_json(seal)
    else:
        click.echo(seal_table(seal))
    return 0


@operator.command()
@remote
def seal(client: Client) -> None:
    """Seal a node: it forgets its keys and serves nothing until it is unsealed."""
    client.call("PUT", "/v1/sys/seal")
    click.echo(f"{client.address} is sealed.")


@operator.command("step-down")
@remote
def step_down(client: Client) -> None:
    """Make the leader hand over to another node."""
    client.call("PUT", "/v1/sys/step-down")
    click.echo("The leader has stepped down.")


@operator.command("join-token")
@click.option("-ttl", "--ttl", default="10m", show_default=True, help="How long the token admits a node.")
@format_option
@remote
def join_token(client: Client, ttl: str, format_: str) -> None:
    """Make a token that admits one node, once. Give it to `operator join` at that node."""
    data: dict[str, Any] = client.call("POST", "/v1/sys/cluster/join-token", {"ttl": ttl})["data"]
    if format_ == "json":
        print_json(data)
    else:
        click.echo(data["token"])


@operator.command()
@click.option("-join-token", "--join-token", "token", required=True, help='"-": from stdin.')
@click.option(
    "-leader-api-addr", "--leader-api-addr", default="", help="A node of the cluster, https://host:port."
)
@remote
def join(client: Client, token: str, leader_api_addr: str) -> None:
    """Make the NEW node at -address a member of an existing cluster.

    \b
    strongroom operator join-token | strongroom operator join -address https://new:8200 -join-token - \\
        -leader-api-addr https://old:8200
    """
    body = {"leader_api_addr": leader_api_addr, "join_token": _secret_line(token, "Join token")}
    answer: dict[str, Any] = client.call("POST", "/v1/sys/storage/raft/join", body, with_token=False)
    if not answer.get("joined"):
        raise RemoteError(f"{client.address} did not join, and did not say why.")
    click.echo(f"{client.address} has joined.")


@operator.command()
@format_option
@remote
def members(client: Client, format_: str) -> None:
    """List the members of the cluster, as the cluster has agreed on them."""
    nodes: list[dict[str, Any]] = client.call("GET", "/v1/sys/cluster/nodes")["data"]["nodes"]
    if format_ == "json":
        print_json({"nodes": nodes})
        return
    rows = [[n["node_id"], n["region"], n["api_address"], n["cluster_address"], n["voter"]] for n in nodes]
    click.echo(table(("Node", "Region", "API Address", "Cluster Address", "Voter"), rows))


@operator.command("remove-peer")
@click.argument("node_id")
@remote
def remove_peer(client: Client, node_id: str) -> None:
    """Remove a member for good. It must not come back with its old data."""
    client.call("POST", "/v1/sys/storage/raft/remove-peer", {"server_id": node_id})
    click.echo(f"{node_id} is no longer a member.")


def _secret_line(told: str | None, title: str) -> str:
    """A secret from the argument, a hidden prompt (nothing told, at a terminal), or a pipe's first line."""
    if told and told != "-":
        return told
    if told is None and sys.stdin.isatty():
        line: str = click.prompt(title, hide_input=True, err=True)
    else:
        line = sys.stdin.readline(LINE_CHARS_MAX)
    if not line.strip():
        raise LocalError(f"{title.partition(' (')[0]} was expected on standard input, which is empty.")
    return line.strip()
