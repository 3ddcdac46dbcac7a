"""Regions of one node each: real processes that replicate to each other over loopback."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import POLL_S, Server, configuration, poll

from node.cli.local_cluster import NOT_NOW
from node.cli.local_wan import LocalWan
from node.wan.orders import Door, Ways


class RegionOfOne:
    """One node that is a region; `token` works wherever its store is."""

    def __init__(
        self, directory: Path, name: str, *, number: int = 1, seal_key: bytes = b"", host: str = ""
    ) -> None:
        """`host`: an address that the region's links leave from, and where it listens behind `door`."""
        self.name, self.directory, self.host = name, directory, host
        api, cluster, link = free_ports(3)
        self.door = Door(name, f"127.0.0.1:{link}", f"{host}:{link}")
        key = directory / "seal.key"
        directory.mkdir(mode=0o700, parents=True)
        fd = os.open(key, os.O_WRONLY | os.O_CREAT, 0o600)
        self.seal_key = seal_key or os.urandom(32)
        os.write(fd, self.seal_key)
        os.close(fd)
        config = configuration(
            directory,
            node_id=f"{name}-{number}",
            api_port=api,
            cluster_port=cluster,
            seal_key=key,
            region=name,
            region_port=link,
            more={"region_bind_addr": self.door.target, "region_source_addr": host} if host else {},
        )
        self.server = Server(
            directory,
            "-config",
            str(config),
            address=f"https://127.0.0.1:{api}",
            ca=directory / "data" / "tls" / "ca.pem",
        )

    def start(self, *codes: int) -> None:
        self.server.start()
        self.server.wait_health(*codes)

    def must(self, token: str, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The body of a request that has to succeed, as soon as there is somebody who can do it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.server.request(method, path, body, token=token, **options)
            if answer.status != NOT_NOW or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        assert answer.status < 300, (self.name, method, path, answer.status, answer.body)
        return answer.body

    def value(self, token: str, key: str) -> object:
        """Of "v" in a secret; None where it cannot be read."""
        answer = self.server.request("GET", f"secret/data/{key}", token=token)
        return answer.body["data"]["data"]["v"] if answer.status == 200 else None

    def regions(self, token: str) -> dict[str, Any]:
        data: dict[str, Any] = self.must(token, "GET", "sys/regions")["data"]
        return data

    def pause(self) -> None:
        """As if all its links were cut; resume() ends it."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)

    def wait_role(self, token: str, role: str) -> None:
        poll(lambda: self.regions(token)["role"] == role, what=f"{self.name} is {role}")

    def wait_level(self, token: str, position: int) -> None:
        """Until this region holds the history up to `position`, and has heard that it was level."""

        def is_level() -> bool:
            told = self.regions(token)
            own = next(each for each in told["regions"] if each["name"] == self.name)
            return told["position"] >= position and own["lag_seconds"] is not None

        poll(is_level, what=f"{self.name} at {position}")


@contextlib.contextmanager
def two_regions(directory: Path) -> Iterator[tuple[RegionOfOne, RegionOfOne, str]]:
    """(primary "eu", secondary "us", root token); KV version 2 at secret/."""
    with contextlib.ExitStack() as stack:
        eu, us = (RegionOfOne(directory / name, name) for name in ("eu", "us"))
        for region in (eu, us):
            stack.enter_context(region.server)
        yield eu, us, replicating(eu, us)


@contextlib.contextmanager
def three_regions(directory: Path) -> Iterator[tuple[RegionOfOne, RegionOfOne, RegionOfOne, str]]:
    """The same, and "asia", another secondary."""
    with contextlib.ExitStack() as stack:
        eu, us, asia = (RegionOfOne(directory / name, name) for name in ("eu", "us", "asia"))
        for region in (eu, us, asia):
            stack.enter_context(region.server)
        token = replicating(eu, us)
        join(eu, asia, token)
        yield eu, us, asia, token


@contextlib.contextmanager
def distant_regions(
    directory: Path, *, delay_s: float
) -> Iterator[tuple[RegionOfOne, RegionOfOne, str, LocalWan]]:
    """The same, and the network between them: `delay_s` each way."""
    with contextlib.ExitStack() as stack:
        hosts = (("eu", "127.0.0.11"), ("us", "127.0.0.12"))
        eu, us = (RegionOfOne(directory / name, name, host=host) for name, host in hosts)
        for region in (eu, us):
            stack.enter_context(region.server)
        wan = LocalWan(directory)
        stack.callback(wan.stop)
        ways = [Ways(change={"delay_s": delay_s})]
        wan.start({each.name: each.host for each in (eu, us)}, [eu.door, us.door], ways)
        yield eu, us, replicating(eu, us), wan


def replicating_alone(primary: RegionOfOne) -> str:
    """Found the primary region; the root token."""
    primary.start(501)
    token: str = primary.must("", "PUT", "sys/init", {})["root_token"]
    primary.server.wait_health(200)
    primary.must(token, "POST", "sys/mounts/secret", {"type": "kv-v2"})
    primary.must(token, "POST", "sys/regions/create")
    return token


def replicating(primary: RegionOfOne, newcomer: RegionOfOne) -> str:
    """The same, and let the other one follow it."""
    token = replicating_alone(primary)
    join(primary, newcomer, token)
    return token


def join(primary: RegionOfOne, newcomer: RegionOfOne, token: str) -> None:
    ticket = primary.must(token, "POST", "sys/regions/ticket")["data"]["ticket"]
    newcomer.start(501)
    newcomer.must("", "POST", "sys/regions/join", {"ticket": ticket}, timeout=60.0)
    newcomer.server.wait_health(200)


def second_node(region: RegionOfOne) -> RegionOfOne:
    """Another node for a region, not started yet."""
    directory = region.directory.with_name(f"{region.name}-2")
    return RegionOfOne(directory, region.name, number=2, seal_key=region.seal_key)
