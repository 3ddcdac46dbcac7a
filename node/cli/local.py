"""`strongroom local ...`: a cluster of three, or regions, on this machine; what `make up`, `down` and `clean` run."""

import sys
from pathlib import Path

import click

from node.cli import local_layout, local_regions, local_regions_up
from node.cli.cluster import render
from node.cli.demonstration import demonstrate
from node.cli.flags import Group, IntegerType, flag, switch
from node.cli.local_cluster import LocalCluster
from node.cli.local_regions import LocalRegions
from node.cli.local_shown import short, start, stop, survey_of, write_environment
from node.cli.output import REMOTE_ERROR, Output
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


@click.group(cls=Group, lazy={"wan": "node.cli.local_wan_command:wan"})
def local() -> None:
    """Run a cluster of three nodes, or several regions, on this machine, to try things out."""


@local.command()
@_directory
@flag("port-base", IntegerType(1024, 65000), help="First of the ports.  [default: 8200]")
@switch("demo", help="Show the failover again on a cluster that exists.")
@flag("regions", IntegerType(2, len(local_regions.REGIONS)), help="Several regions, a cluster each: 2 or 3.")
@flag("nodes", IntegerType(1, 5), help=f"Nodes of each region.  [default: {local_regions.NODES}]")
def up(directory: Path, port_base: int | None, demo: bool, regions: int | None, nodes: int | None) -> None:
    """Start the cluster; a new one also shows how it survives the death of its leader, or of a region."""
    if local_regions_up.meant(directory, regions=regions, nodes=nodes):
        base = port_base or PORT_BASE
        local_regions_up.up(directory, port_base=base, regions=regions, nodes=nodes, demo=demo)
        return
    fresh = local_layout.read_marker(directory) is None
    cluster = LocalCluster(directory, port_base=port_base or (PORT_BASE if fresh else None))
    cluster.create()
    unfinished = not _initialised(cluster)
    start(cluster)
    _bootstrap(cluster, fresh=unfinished)
    if unfinished or demo:
        demonstrate(cluster)
    write_environment(cluster.directory / "env", cluster, cluster.nodes[0].id)
    click.echo(f"\n{render(survey_of(cluster))}\n")
    click.echo(_how_to_go_on(cluster))


@local.command()
@_directory
def down(directory: Path) -> None:
    """Stop the nodes; all data stays."""
    if _holds_any(directory):
        stop(_opened(directory))
    else:
        click.echo(f"There is no local cluster in {directory}.")


@local.command()
@_directory
def clean(directory: Path) -> None:
    """Stop the nodes and delete their data."""
    if not directory.exists():
        click.echo(f"There is no {directory}.")
        return
    local = _opened(directory)
    stop(local)
    local.remove()
    click.echo(f"Removed {directory}.")


@local.command()
@_directory
@printing
def status(out: Output, directory: Path) -> int:
    """Show the nodes, asked through the first that answers. Exit code 0: there is a leader, 2: there is none."""
    local = _opened(directory)
    if isinstance(local, LocalRegions):
        return local_regions_up.status(local, out)
    report = survey_of(local)
    out.show(report, render(report))
    return 0 if report["leader_id"] else REMOTE_ERROR


def _holds_any(directory: Path) -> bool:
    return bool(local_layout.read_marker(directory) or local_regions.read_marker(directory))


def _opened(directory: Path) -> LocalCluster | LocalRegions:
    """Raises ClusterError if there is neither."""
    if local_regions.read_marker(directory) is not None:
        return LocalRegions.open(directory)
    return LocalCluster.open(directory)


def _initialised(cluster: LocalCluster) -> bool:
    return (cluster.directory / "env").exists()


def _bootstrap(cluster: LocalCluster, *, fresh: bool) -> None:
    with step("Making one cluster of them" if fresh else "Waiting until the cluster has a leader"):
        cluster.bootstrap()
        for node in cluster.nodes:
            cluster.wait_caught_up(node.id)


def _how_to_go_on(cluster: LocalCluster) -> str:
    tools = Path(sys.executable).parent
    python, command = short(Path(sys.executable)), short(tools / "strongroom")
    read = "hvac.Client().secrets.kv.v2.read_secret_version('hello', raise_on_deleted_version=True)"
    return "\n".join(
        [
            "Go on with any client of the Vault API. First",
            f"  source {short(cluster.directory / 'env')}",
            "and then, for example,",
            f"  {command} kv get -mount=secret hello",
            f"  {python} -c \"import hvac; print({read}['data']['data'])\"",
            '  curl --cacert "$VAULT_CACERT" -H "X-Vault-Token: $VAULT_TOKEN" "$VAULT_ADDR/v1/secret/data/hello"',
            "`make down` stops the cluster, `make up` brings it back with its data, `make clean` deletes it.",
        ]
    )
