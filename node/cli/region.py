"""`strongroom region ...`: found regions, look at them, hand over, take over."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import click

from node.cli.client import Client, needed
from node.cli.flags import DURATION, PAIR, Group, flag, switch
from node.cli.output import Output, RemoteError, table
from node.cli.prompt import secret_line
from node.cli.remote import Prints, remote
from node.cli.values import Duration

JOIN_TIMEOUT_S = 4 * 3600.0  # the whole state travels meanwhile
PROGRESS_EVERY_S = 1.0
TOOK_OVER_TIMEOUT_S = 30.0  # a handover takes about three round trips
TOOK_OVER_PAUSE_S = 0.1
CHANGING = ("leaving", "called")  # roles in a handover
JOINING = "sys/regions/join"
INITIALISED = "sys/init"
NO_STORE = (
    "This node has no store yet, and is of no region. `strongroom region join TICKET` makes it the first node of a"
    " region that follows (`region ticket` in another region prints one); `operator join` one more node of a region"
    " that there is; `operator init` makes a new store."
)
UNCONFIRMED = "This is what the node knew at last: its region has no quorum."


@click.group(cls=Group, lazy={"divergence": "node.cli.region_divergence:divergence"})
def region() -> None:
    """Replicate the store to other regions, hand over and take over."""


@region.command()
@remote()
def create(client: Client) -> int:
    """Make this cluster the primary region of its store, under the name in its configuration."""
    client.call("POST", "sys/regions/create", {})
    click.echo(
        "Success! This cluster is the primary region now. `strongroom region ticket` lets another one follow."
    )
    return 0


@region.command()
@flag("ttl", DURATION, default="10m", help="For how long it is good.  [default: 10m]")
@remote(Prints.FIELDS)
def ticket(client: Client, out: Output, ttl: Duration) -> int:
    """Print a one-time ticket for a region that wants to follow."""
    body = client.call("POST", "sys/regions/ticket", {"ttl": ttl})
    text = needed(body, "data", "ticket")
    out.show(body["data"], text)
    return 0


@region.command()
@click.argument("ticket", default="-")
@remote(Prints.FORMATS)
def join(client: Client, out: Output, ticket: str) -> int:
    """Make the NEW, empty node at -address the first one of a region that follows; its state is fetched first."""
    body = {"ticket": secret_line(ticket, "Ticket") if ticket == "-" else ticket}
    with _telling(client):
        answer = client.send("POST", JOINING, body, with_token=False, timeout=JOIN_TIMEOUT_S)
    told: dict[str, Any] = client.checked(answer, "POST", JOINING)
    keys = "".join(f"\nUnseal Key {number}: {key}" for number, key in enumerate(told["keys"], 1))
    out.show(told, f"Success! Region {told['region']} follows.{keys}")
    return 0


@contextlib.contextmanager
def _telling(client: Client) -> Iterator[None]:
    """Meanwhile whoever sits there sees how much has arrived."""
    over = threading.Event()

    def tell() -> None:
        shown = ""
        while not over.wait(PROGRESS_EVERY_S):
            arriving = _arriving(client)
            if arriving is not None and (text := _share(arriving)) != shown:
                shown = text
                click.echo(f"taking the state of {arriving['source']}: {text}", err=True)

    if sys.stderr.isatty() and client.dry_run is None:
        threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _arriving(client: Client) -> dict[str, Any] | None:
    """What a node that begins to follow says of itself; None where none does."""
    try:
        answer = client.send("GET", JOINING, with_token=False)
        told: dict[str, Any] | None = client.checked(answer, "GET", JOINING)["arriving"]
    except RemoteError:
        return None
    return told


def _share(arriving: dict[str, Any]) -> str:
    """How much of a state is where it is to be."""
    if not arriving["bytes_max"]:
        return "a copy is being made"
    return f"{arriving['bytes'] >> 20} of {(arriving['bytes_max'] >> 20) + 1} MiB"


@region.command("list")
@remote(Prints.FORMATS)
def list_(client: Client, out: Output) -> int:
    """List the regions."""
    told = needed(client.call("GET", "sys/regions"), "data")
    rows = [[each["name"], each["role"], ", ".join(each["endpoints"])] for each in told["regions"]]
    out.show(told["regions"], table(("Region", "Role", "Endpoints"), rows))
    return 0


@region.command()
@remote(Prints.FORMATS)
def status(client: Client, out: Output) -> int:
    """Show how far every region is, as the node that is asked knows it, and whether its own gets on, as that region's
    leader knows. Exit code 2 if it does not.
    """
    try:
        told, confirmed = _known(client)
    except RemoteError:
        if (arriving := _arriving(client)) is None:
            if _has_no_store(client):
                raise RemoteError(NO_STORE) from None
            raise
        out.show(
            {"arriving": arriving}, f"This node takes the state of {arriving['source']}: {_share(arriving)}."
        )
        return 2
    told |= _leaders_word(client, told)
    out.show(told, render(told) + ("" if confirmed else f"\n{UNCONFIRMED}"))
    return 0 if confirmed and not told["stuck"] else 2


def _has_no_store(client: Client) -> bool:
    """Whether the node says so."""
    try:
        answer = client.send("GET", INITIALISED, with_token=False)
        told: bool = client.checked(answer, "GET", INITIALISED)["initialized"]
    except (RemoteError, KeyError, TypeError):
        return False
    return told is False


def _known(client: Client) -> tuple[dict[str, Any], bool]:
    """What the node knows, and whether its region confirms that this is up to date."""
    try:
        return needed(client.call("GET", "sys/regions"), "data"), True
    except RemoteError as refusal:
        if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
    headers = {**client.headers, "X-Strongroom-Consistency": "stale-ok"}
    return needed(dataclasses.replace(client, headers=headers).call("GET", "sys/regions"), "data"), False


def _leaders_word(client: Client, told: dict[str, Any]) -> dict[str, Any]:
    """Only the node that leads a region follows another one."""
    if not told["leader"] or told["role"] != "secondary":
        return {}
    with contextlib.suppress(RemoteError):
        leader = dataclasses.replace(client, address=told["leader"])
        theirs: dict[str, Any] = needed(leader.call("GET", "sys/regions"), "data")
        return {name: theirs[name] for name in ("stuck", "arriving", "diverged_at")}
    return {}


def render(told: dict[str, Any]) -> str:
    """The overview as a table and a line or two."""
    rows = [
        [
            each["name"],
            each["role"],
            f"fetching, {_share(each['fetching'])}" if each["fetching"] else each["position"],
            each["lag_entries"],
            each["lag_seconds"],
            each["last_contact_seconds"],
            each["round_trip_ms"],
        ]
        for each in told["regions"]
    ]
    headings = ("Region", "Role", "Position", "Lag", "Lag (s)", "Last Contact (s)", "Round Trip (ms)")
    lines = [table(headings, rows, empty="-"), ""]
    lines.append(
        f"Epoch {told['epoch']}: {told['primary'] or 'no known region'} orders writes."
        f" This node is in {told['region']}."
        if told["epoch"]
        else "There are no regions: `strongroom region create` founds the first one."
    )
    if told["stuck"]:
        lines.append(f"This region does not get on: {told['stuck']}")
    if told["arriving"]:
        lines.append(f"Arrived of it: {_share(told['arriving'])}")
    return "\n".join(lines)


@region.command()
@flag(
    "set", PAIR, variable="changes", multiple=True, help="A setting and its new value, key=value; repeatable."
)
@remote(Prints.FORMATS)
def settings(client: Client, out: Output, changes: tuple[tuple[str, str], ...]) -> int:
    """Show what the region that is asked goes by towards the others, or change it while it runs."""
    if changes:
        client.call("POST", "sys/regions/settings", dict(changes))
    told = needed(client.call("GET", "sys/regions/settings"), "data")
    out.show(told, table(("Setting", "Value"), [[name, value] for name, value in told.items()], empty="-"))
    return 0


@region.command()
@click.argument("name")
@remote()
def switchover(client: Client, name: str) -> int:
    """Hand over to region NAME, without a loss, and wait until it has taken over. Any region may be asked."""
    client.call("POST", "sys/regions/switchover", {"name": name})
    try:
        begun = _took_over(client, name)
    except _NotTold as unseen:
        click.echo(
            f"The handover to {name} was accepted: it orders writes as soon as it has everything. Whether it does by"
            f" now could not be read here ({unseen}): `strongroom region status` tells it, asked with a"
            f" token that may read sys/regions, of {name} best; until it names {name} nobody orders writes."
        )
        return 0
    click.echo(f"Success! {name} orders writes since position {begun}.")
    return 0


class _NotTold(Exception):
    """The node does not say how a handover stands."""


def _took_over(client: Client, name: str) -> int:
    """The position since which region `name` orders writes, as soon as the node that is asked knows. Raises _NotTold,
    and RemoteError if it has not heard of that in time.
    """
    ends = time.monotonic() + TOOK_OVER_TIMEOUT_S
    while time.monotonic() < ends:
        try:
            told = needed(client.call("GET", "sys/regions"), "data")
        except RemoteError as error:
            raise _NotTold(" ".join(str(error).split())) from None
        newest = next(reversed(told["epochs"]), {"region": ""})
        if newest["region"] == name and all(each["role"] not in CHANGING for each in told["regions"]):
            return int(newest["position"])
        time.sleep(TOOK_OVER_PAUSE_S)
    raise RemoteError(
        f"{name} was called to order writes, and is not heard to do so yet (`strongroom region status`). If it is gone,"
        " `strongroom region demote -force` in the region that handed over ends that; then one of them can be promoted."
    )


@region.command()
@switch("accept-loss", help="Accept the loss of what this region has not got.")
@flag("max-lag", help="Accept the loss of what is not older than this.  [default: as `region settings` says]")
@switch("force", help="Even if the primary region answers.")
@remote(Prints.FORMATS)
def promote(client: Client, out: Output, accept_loss: bool, max_lag: str | None, force: bool) -> int:
    """Take over from a primary region that is gone; ask it of the region that is to order writes."""
    body: dict[str, Any] = {"accept_loss": accept_loss, "force": force}
    if max_lag is not None:
        body["max_lag"] = max_lag
    told = needed(client.call("POST", "sys/regions/promote", body), "data")
    out.show(told, f"Success! {told['region']} orders writes since position {told['position']}.")
    return 0


@region.command()
@click.argument("name", required=False, default="")
@switch("force", help="Even if no other region is known to have taken over: then nobody orders writes.")
@remote(Prints.FORMATS)
def demote(client: Client, out: Output, name: str, force: bool) -> int:
    """Order no writes in this region any more, and follow region NAME, or whichever took over.

    For a primary that was cut off while another region was promoted, and must be fenced at once.
    """
    told = needed(client.call("POST", "sys/regions/demote", {"name": name, "force": force}), "data")
    follows = told["follows"]
    out.show(
        told,
        f"Success! This region follows {follows}; `strongroom region divergence` lists what only this one had."
        if follows
        else "Success! This region orders no writes. It will follow whichever region is promoted.",
    )
    return 0


@region.command()
@switch("force", help="Even if the other regions cannot be told.")
@remote()
def leave(client: Client, force: bool) -> int:
    """Make this region, which follows, a store of its own that keeps all that is in it; the others forget it."""
    client.call("POST", "sys/regions/leave", {"force": force})
    click.echo(
        "Success! This cluster is a store of its own, with the secrets, policies and tokens of the one that it left."
        " What is revoked in one of them from now on stays valid in the other."
    )
    return 0


@region.command()
@click.argument("name")
@remote()
def remove(client: Client, name: str) -> int:
    """Forget region NAME, which follows; its nodes keep what they have, and stop following."""
    client.call("POST", "sys/regions/remove", {"name": name})
    click.echo(f"Success! {name} is no region any more.")
    return 0
