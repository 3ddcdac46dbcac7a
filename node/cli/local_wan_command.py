"""`strongroom local wan`: look at the network between the regions of this machine, and make it worse or better."""

from pathlib import Path
from typing import Any

import click

from node.cli.flags import Command, IntegerType, flag, switch
from node.cli.local_cluster import ClusterError
from node.cli.local_wan import LocalWan
from node.cli.output import Output, table
from node.cli.remote import printing

DIRECTORY = Path(".strongroom")


@click.command(cls=Command)
@click.argument("region", required=False, default="")
@click.argument("other", required=False, default="")
@flag("directory", click.Path(path_type=Path), default=DIRECTORY, help=f"[default: {DIRECTORY}]")
@switch("cut", help="Cut the region off: connections are reset.")
@switch("swallow", help="Cut it off without a word: nothing gets through, and nobody is told.")
@switch("heal", help="Let it in again.")
@flag("round-trip", IntegerType(0, 60_000), help="How long there and back takes, in milliseconds.")
@flag("jitter", IntegerType(0, 60_000), help="How much longer each way may take, in milliseconds.")
@flag("bits-per-second", IntegerType(0), help="How much gets through each way; 0: as much as can.")
@switch("one-way", help="Only from the first region to the other.")
@printing
def wan(
    out: Output,
    region: str,
    other: str,
    directory: Path,
    cut: bool,
    swallow: bool,
    heal: bool,
    round_trip: int | None,
    jitter: int | None,
    bits_per_second: int | None,
    one_way: bool,
) -> int:
    """Show the ways between two regions (default: all), or change them; for regions of `local up -regions`."""
    if cut + swallow + heal > 1:
        raise ClusterError("-cut, -swallow and -heal exclude each other.")
    change: dict[str, Any] = {}
    if cut or swallow or heal:
        change["cut"] = "reset" if cut else "swallow" if swallow else ""
    if round_trip is not None:
        change["delay_s"] = round_trip / 2000
    if jitter is not None:
        change["jitter_s"] = jitter / 1000
    if bits_per_second is not None:
        change["bits_per_s"] = bits_per_second
    told = LocalWan(directory).change(region, other, one_way=one_way, **change)
    rows = [
        [
            each["from"],
            each["to"],
            f"{each['delay_s'] * 1000:g}",
            f"{each['jitter_s'] * 1000:g}" if each["jitter_s"] else None,
            f"{each['bits_per_s']:g}" if each["bits_per_s"] else None,
            each["cut"] or None,
            each["connections"],
            each["bytes"],
        ]
        for each in told
    ]
    headings = ("From", "To", "Delay (ms)", "Jitter (ms)", "Bits/s", "Cut", "Connections", "Bytes")
    out.show(told, table(headings, rows, empty="-"))
    return 0
