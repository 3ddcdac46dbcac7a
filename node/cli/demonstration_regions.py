"""What `make up REGIONS=3` shows: what is written in one region is read in all, and the loss of one is no end."""

import secrets
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import click

from node.cli.demonstration import PATH, expect, write
from node.cli.http_connection import Connections, tls_context
from node.cli.http_exchange import Answer, Unreachable, request
from node.cli.local_cluster import ClusterError
from node.cli.local_regions import LocalRegions
from node.cli.local_shown import listed
from node.cli.progress import step

VISIBLE_S_MAX = 30.0
POLL_S = 0.002
READS = 200
WRITES = 9


class _Reader:
    """Reads what was written, at one region's nearest node, over one connection."""

    def __init__(self, regions: LocalRegions, name: str) -> None:
        cluster = regions.clusters[name]
        node = cluster.node(regions.entry(name))
        self._name, self._address = name, node.api_address
        self._context, self._connections = tls_context(ca_cert=node.ca_path), Connections()
        self._headers = {"X-Vault-Token": regions.token}

    def read(self) -> Answer:
        return request(
            self._address,
            "GET",
            f"/v1/{PATH}",
            headers=self._headers,
            context=self._context,
            connections=self._connections,
        )

    def wait_for(self, text: str) -> float:
        """The monotonic time at which `text` was there."""
        deadline = time.monotonic() + VISIBLE_S_MAX
        while text.encode() not in self.read().content:
            if time.monotonic() > deadline:
                raise ClusterError(f"{self._name} does not show what was written elsewhere.")
            time.sleep(POLL_S)
        return time.monotonic()

    def p50_ms(self) -> float:
        """Of READS reads."""
        taken = []
        for _ in range(READS):
            began = time.monotonic()
            self.read()
            taken.append(time.monotonic() - began)
        return statistics.median(taken) * 1000


def demonstrate(regions: LocalRegions) -> None:
    """Write, read elsewhere, write elsewhere, lose the primary region, promote another, bring it back."""
    primary = regions.primary()
    others = [name for name in regions.clusters if name != primary]
    _travel(regions, primary, others)
    _carry(regions, primary, others[-1])
    for name in regions.clusters:
        told = _Reader(regions, name).p50_ms()
        click.echo(f"Reading in {name}, at its own nodes: p50 {told:.1f} ms")
    _lose(regions, primary, others)


def _travel(regions: LocalRegions, primary: str, others: list[str]) -> None:
    readers = {name: _Reader(regions, name) for name in others}
    seen: dict[str, list[float]] = {name: [] for name in others}
    what = f"Writing {PATH} in {primary} {WRITES} times, reading each version in {listed(others)}"
    with ThreadPoolExecutor() as pool, step(what):
        for number in range(WRITES):
            greeting = f"greeting {number}, {secrets.token_hex(3)}"
            waits = {name: pool.submit(reader.wait_for, greeting) for name, reader in readers.items()}
            write(regions.clusters[primary], regions.entry(primary), greeting)
            acknowledged = time.monotonic()
            for name, wait in waits.items():
                seen[name].append(max(0.0, wait.result() - acknowledged))
    told = ", ".join(f"in {name} {statistics.median(times) * 1000:.0f} ms" for name, times in seen.items())
    click.echo(f"  visible {told} after it was acknowledged (median)")


def _carry(regions: LocalRegions, primary: str, name: str) -> None:
    greeting = f"written in {name}, {secrets.token_hex(3)}"
    with step(f"Writing it in {name}, which carries it to {primary}, and reading it there at once"):
        began = time.monotonic()
        write(regions.clusters[name], regions.entry(name), greeting)
        taken_s = time.monotonic() - began
        expect(regions.clusters[name], regions.entry(name), greeting)
    click.echo(f"  acknowledged after {taken_s * 1000:.0f} ms")
    for each in regions.clusters:
        _Reader(regions, each).wait_for(greeting)


def _lose(regions: LocalRegions, primary: str, others: list[str]) -> None:
    """Kill the region that orders writes, let another one take over, and bring it back."""
    heir, clusters = others[0], regions.clusters
    held = clusters[heir].must(regions.entry(heir), "GET", PATH)["data"]["data"]["greeting"]
    greeting = f"written after the loss of {primary}, {secrets.token_hex(3)}"
    killed = time.monotonic()
    with step(f"Killing all nodes of {primary} (SIGKILL), until {heir} notices"):
        regions.kill(primary)
        regions.wait_stuck(heir)
    with step(f"Reading in {listed(others)} all the same"):
        for name in others:
            expect(clusters[name], regions.entry(name), held)
    with step(f"Writing in {heir}, which is refused: {primary} alone orders writes"):
        _expect_refusal(regions, heir)
    with step(f"Promoting {heir}, and writing there"):
        asked = time.monotonic()
        told = clusters[heir].must(regions.entry(heir), "POST", "sys/regions/promote", {"accept_loss": True})[
            "data"
        ]
        written = write(clusters[heir], regions.entry(heir), greeting)
        acknowledged = time.monotonic()
    with step(f"Starting {primary} again, until it follows {heir}"):
        for node in clusters[primary].nodes:
            clusters[primary].start(node.id)
        for node in clusters[primary].nodes:
            clusters[primary].wait_unsealed(node.id)
        for name in clusters:
            if name != heir:
                regions.wait_following(name, heir)
    with step("Reading what was written meanwhile in every region"):
        for name in clusters:
            expect(clusters[name], regions.entry(name), greeting)
    click.echo(
        f"\nRTO: writes were taken again {acknowledged - killed:.2f} s after the death of {primary}, of which the"
        f" promotion and its first write took {acknowledged - asked:.2f} s."
        f"\nRPO: {heir} knew of {told['lost']['lag_entries']} writes that it had not got;"
        f" {PATH} is at version {written.version} in {listed(list(clusters))}."
    )


def _expect_refusal(regions: LocalRegions, name: str) -> None:
    try:
        status, answer, _ = regions.clusters[name].request(
            regions.entry(name), "POST", PATH, {"data": {"greeting": "nobody orders this"}}, timeout=30.0
        )
    except Unreachable as error:
        raise ClusterError(str(error)) from None
    if status != 503:
        raise ClusterError(f"{name} should have refused a write, and answered {status}: {answer}")
