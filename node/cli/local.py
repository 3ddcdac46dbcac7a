"""`strongroom local ...`: a cluster of three on this machine; what `make up`, `make down` and `make clean` run."""

import os
import shlex
import sys
from pathlib import Path

import click

from node.cli.client import Client
from node.cli.cluster import render, survey
from node.cli.demonstration import demonstrate
from node.cli.flags import Group, IntegerType, flag, switch
from node.cli.http_connection import tls_context
from node.cli.local_cluster import LocalCluster
from node.cli.local_layout import read_marker, write_private
from node.cli.output import REMOTE_ERROR, Output, RemoteError
from node.cli.progress import step
from node.cli.remote import printing

DIRECTORY = Path(".strongroom")
PORT_BASE = 8200

_directory = flag(
    "directory",
    click.Path(path_type=Path),
    default=DIRECTORY,
    help=f"Where the cluster lives.  [default: {DIRECTORY}]",
)


@click.group(cls=Group)
def local() -> None:
    """Run a cluster of three nodes on this machine, to try things out."""


@local.command()
@_directory
@flag("port-base", IntegerType(1024, 65500), help="First of six ports.  [default: 8200]")
@switch("demo", help="Show the failover again on a cluster that exists.")
def up(directory: Path, port_base: int | None, demo: bool) -> None:
    """Start the cluster; a new one also shows how it survives the death of its leader."""
    fresh = read_marker(directory) is None
    cluster = LocalCluster(directory, port_base=port_base or (PORT_BASE if fresh else None))
    cluster.create()
    unfinished = not _initialised(cluster)
    _start(cluster)
    _bootstrap(cluster, fresh=unfinished)
    if unfinished or demo:
        demonstrate(cluster)
    _write_environment(cluster)
    click.echo(f"\n{_status(cluster)}\n")
    click.echo(_how_to_go_on(cluster))


@local.command()
@_directory
def down(directory: Path) -> None:
    """Stop the nodes; all data stays."""
    if read_marker(directory) is None:
        click.echo(f"There is no local cluster in {directory}.")
        return
    _stop(LocalCluster.open(directory))


@local.command()
@_directory
def clean(directory: Path) -> None:
    """Stop the nodes and delete their data."""
    if not directory.exists():
        click.echo(f"There is no {directory}.")
        return
    cluster = LocalCluster.open(directory)
    _stop(cluster)
    cluster.remove()
    click.echo(f"Removed {directory}.")


@local.command()
@_directory
@printing
def status(out: Output, directory: Path) -> int:
    """Show the nodes, asked through the first that answers. Exit code 0: there is a leader, 2: there is none."""
    cluster = LocalCluster.open(directory)
    report = _survey(cluster)
    out.show(report, render(report))
    return 0 if report["leader_id"] else REMOTE_ERROR


def _initialised(cluster: LocalCluster) -> bool:
    return (cluster.directory / "env").exists()


def _start(cluster: LocalCluster) -> None:
    dead = [node.id for node in cluster.nodes if not cluster.alive(node.id)]
    if dead:
        with step(f"Starting {_listed(dead)}"):
            cluster.start_all()
    else:
        click.echo(f"{_listed([node.id for node in cluster.nodes])} run already.")


def _bootstrap(cluster: LocalCluster, *, fresh: bool) -> None:
    with step("Making one cluster of them" if fresh else "Waiting until the cluster has a leader"):
        cluster.bootstrap()
        for node in cluster.nodes:
            cluster.wait_caught_up(node.id)


def _stop(cluster: LocalCluster) -> None:
    running = [node.id for node in cluster.nodes if cluster.alive(node.id)]
    if not running:
        click.echo("No node was running.")
        return
    with step(f"Stopping {_listed(running)}"):
        killed = cluster.stop_all()
    if killed:
        click.echo(f"{_listed(killed)} did not stop when asked, and had to be killed.")


def _survey(cluster: LocalCluster) -> dict[str, object]:
    refusals = []
    for node in cluster.nodes:
        if not cluster.alive(node.id):
            continue
        context = tls_context(ca_cert=node.ca_path) if node.ca_path.exists() else None
        try:
            return survey(Client(node.api_address, context=context, token=cluster.token))
        except RemoteError as e:
            refusals.append(str(e))
    raise RemoteError("\n".join(refusals) or "No node is running (strongroom local up starts them).")


def _status(cluster: LocalCluster) -> str:
    return render(_survey(cluster))


def _write_environment(cluster: LocalCluster) -> None:
    variables = cluster.environment(cluster.nodes[0].id)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    write_private(cluster.directory / "env", "\n".join(lines) + "\n")


def _how_to_go_on(cluster: LocalCluster) -> str:
    tools = Path(sys.executable).parent
    python, command = _short(Path(sys.executable)), _short(tools / "strongroom")
    read = "hvac.Client().secrets.kv.v2.read_secret_version('hello', raise_on_deleted_version=True)"
    return "\n".join(
        [
            "Go on with any client of the Vault API. First",
            f"  source {_short(cluster.directory / 'env')}",
            "and then, for example,",
            f"  {command} kv get -mount=secret hello",
            f"  {python} -c \"import hvac; print({read}['data']['data'])\"",
            '  curl --cacert "$VAULT_CACERT" -H "X-Vault-Token: $VAULT_TOKEN" "$VAULT_ADDR/v1/secret/data/hello"',
            "`make down` stops the cluster, `make up` brings it back with its data, `make clean` deletes it.",
        ]
    )


def _short(path: Path) -> str:
    """As seen from where the user stands, if it is below."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
