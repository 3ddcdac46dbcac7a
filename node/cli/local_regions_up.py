"""`strongroom local up -regions=3`: start regions, show what they promise, and say how to go on."""

import sys
from pathlib import Path
from typing import Any

import click

from node.cli import local_layout, local_regions
from node.cli.cluster import render
from node.cli.demonstration_regions import demonstrate
from node.cli.local_cluster import ClusterError
from node.cli.local_regions import NODES, LocalRegions
from node.cli.local_shown import listed, short, start, survey_of, write_environment
from node.cli.output import REMOTE_ERROR, Output, RemoteError
from node.cli.progress import step
from node.cli.region import render as render_regions


def meant(directory: Path, *, regions: int | None, nodes: int | None) -> bool:
    """Whether regions are to be started, and not one cluster. Raises ClusterError where that cannot be."""
    if local_regions.read_marker(directory) is not None:
        return True
    if regions is None and nodes is not None:
        raise ClusterError("-nodes is for regions: say how many with -regions.")
    if regions is not None and local_layout.read_marker(directory) is not None:
        raise ClusterError(
            f"{directory} holds a cluster of one region; remove it before making several (make clean)."
        )
    return regions is not None


def up(directory: Path, *, port_base: int, regions: int | None, nodes: int | None, demo: bool) -> None:
    """Start what does not run; what is new is made into regions, and demonstrated. Raises ClusterError."""
    told = local_regions.read_marker(directory)
    everything = LocalRegions(
        directory,
        regions=regions or (told or {})["regions"],
        nodes=nodes or (told or {"nodes": NODES})["nodes"],
        port_base=None if told else port_base,
    )
    everything.create()
    unfinished = not (everything.directory / "env").exists()
    with step(f"Opening a network between {listed(list(everything.clusters))}: {_distances(everything)}"):
        everything.start_network()
    start(everything)
    if unfinished:
        _make(everything)
    else:
        with step("Waiting until every region has a leader"):
            everything.wait_ready()
    if unfinished or demo:
        demonstrate(everything)
    _leave_environment(everything)
    primary = everything.primary()
    click.echo(f"\n{render_regions(everything.overview(primary))}\n")
    click.echo(_how_to_go_on(everything, primary))


def status(everything: LocalRegions, out: Output) -> int:
    """The nodes of every region. Exit code 0: each has a leader, 2: one has none."""
    reports: dict[str, dict[str, Any] | None] = {}
    for name, cluster in everything.clusters.items():
        try:
            reports[name] = survey_of(cluster)
        except RemoteError as error:
            out.say(f"{name}: {error}\n")
            reports[name] = None
    out.show(reports, "\n\n".join(render(report) for report in reports.values() if report is not None))
    return 0 if all(report and report["leader_id"] for report in reports.values()) else REMOTE_ERROR


def _make(everything: LocalRegions) -> None:
    first, *others = everything.clusters
    with step(f"Making {first} the region that orders writes"):
        everything.found()
    for name in others:
        with step(f"Letting {name} follow"):
            everything.follow(name)
    with step("Waiting until everybody has caught up"):
        everything.wait_ready()
        primary = everything.primary()  # another one, if a demonstration broke off after a promotion
        for name in everything.clusters:
            if name != primary:
                everything.wait_following(name, primary)
    for name, cluster in everything.clusters.items():
        write_environment(cluster.directory / "env", cluster, everything.entry(name))


def _distances(everything: LocalRegions) -> str:
    pairs = local_regions.ROUND_TRIPS_S.items()
    known = set(everything.clusters)
    return ", ".join(
        f"{here}-{there} {s * 1000:.0f} ms" for (here, there), s in pairs if {here, there} <= known
    )


def _leave_environment(everything: LocalRegions) -> None:
    """Of the region that orders writes now; that it exists says that the demonstration is over."""
    primary = everything.clusters[everything.primary()]
    write_environment(everything.directory / "env", primary, everything.entry(everything.primary()))


def _how_to_go_on(everything: LocalRegions, primary: str) -> str:
    command = short(Path(sys.executable).parent / "strongroom")
    where = (
        ""
        if everything.directory == Path(".strongroom").absolute()
        else f" -directory={short(everything.directory)}"
    )
    other = next(name for name in everything.clusters if name != primary)
    return "\n".join(
        [
            f"Go on with any client of the Vault API, in {primary} or in another region:",
            f"  source {short(everything.clusters[other].directory / 'env')}",
            f"  {command} kv get -mount=secret hello",
            f"  {command} region status",
            "Cut a region off, look at it, let it back in; and hand over without a loss:",
            f"  {command} local wan -cut {other}{where}; sleep 3; {command} region status",
            f"  {command} local wan -heal{where}",
            f"  source {short(everything.directory / 'env')} && {command} region switchover {other}",
            "`make down` stops the regions, `make up` brings them back with their data, `make clean` deletes them.",
        ]
    )
