"""What `strongroom local` shows of clusters, and leaves for the shell; shared by one cluster and by regions."""

import os
import shlex
from pathlib import Path
from typing import Any

import click

from node.cli.client import Client
from node.cli.cluster import survey
from node.cli.http_connection import tls_context
from node.cli.local_cluster import LocalCluster
from node.cli.local_layout import write_private
from node.cli.local_regions import LocalRegions
from node.cli.output import RemoteError
from node.cli.progress import step


def survey_of(cluster: LocalCluster) -> dict[str, Any]:
    """What `cluster status` tells, asked through the first node that answers. Raises RemoteError."""
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


def start(local: LocalCluster | LocalRegions) -> None:
    """Start what does not run."""
    if dead := local.dead():
        with step(f"Starting {listed(dead)}"):
            local.start_all()
    else:
        click.echo(f"{listed(local.running())} run already.")


def stop(local: LocalCluster | LocalRegions) -> None:
    """Stop what runs."""
    running = local.running()
    if running:
        with step(f"Stopping {listed(running)}"):
            killed = local.stop_all()
        if killed:
            click.echo(f"{listed(killed)} did not stop when asked, and had to be killed.")
    else:
        local.stop_all()
        click.echo("No node was running.")


def write_environment(path: Path, cluster: LocalCluster, node_id: str) -> None:
    """A file for the shell: what a client needs to reach that node as root."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment(node_id).items()]
    write_private(path, "\n".join(lines) + "\n")


def short(path: Path) -> str:
    """As seen from where the user stands, if it is below."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
