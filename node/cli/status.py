"""`strongroom status`: is this node open? Exit 0 unsealed, 1 error, 2 sealed: probes rely on it."""

from typing import Any

import click

from node.cli.client import Client, remote
from node.cli.output import LocalError, RemoteError, format_option, pairs, print_json

SEALED = 2


@click.command()
@format_option
@remote
def status(client: Client, format_: str) -> int:
    """Show whether a node is sealed. Exit code 0: unsealed, 1: error, 2: sealed."""
    try:
        seal: dict[str, Any] = client.call("GET", "/v1/sys/seal-status", with_token=False)
    except RemoteError as e:
        raise LocalError(str(e)) from e  # 2 means sealed here
    if format_ == "json":
        print_json(seal)
    else:
        click.echo(seal_table(seal))
    return SEALED if seal["sealed"] else 0


def seal_table(seal: dict[str, Any]) -> str:
    """What sys/seal-status and sys/unseal answer, for people."""
    rows: list[tuple[str, object]] = [
        ("Seal Type", seal.get("type")),
        ("Initialized", seal.get("initialized")),
        ("Sealed", seal.get("sealed")),
        ("Total Shares", seal.get("n")),
        ("Threshold", seal.get("t")),
    ]
    if seal.get("sealed"):
        rows.append(("Unseal Progress", f"{seal.get('progress', 0)}/{seal.get('t', 0)}"))
        rows.append(("Unseal Nonce", seal.get("nonce") or "n/a"))
    rows.append(("Version", seal.get("version")))
    rows += [(title, seal[key]) for title, key in _WHEN_KNOWN if seal.get(key)]
    return pairs(rows)


_WHEN_KNOWN = (
    ("Storage Type", "storage_type"),
    ("Cluster Name", "cluster_name"),
    ("Cluster ID", "cluster_id"),
)
