"""Events with real nodes: they die, are restored, follow another region; subscribers of the library miss nothing."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from strongroom import STALE_OK, Cache, Client, Event, NotFound, Token
from support.elsewhere import Place, a_cursor_that_is_too_old_is_answered_by_read_again, all_of_it_is_told
from support.patience import PATIENCE_S
from support.processes import poll
from support.regions import RegionOfOne, two_regions

from node.cli.local_cluster import LocalCluster


def nodes(cluster: LocalCluster) -> list[str]:
    return [node.api_address for node in cluster.nodes]


@contextmanager
def library(cluster: LocalCluster, **options: object) -> Iterator[Client]:
    with Client(nodes(cluster), Token(cluster.token), ca_file=cluster.ca_path, **options) as made:  # type: ignore[arg-type]
        yield made


@contextmanager
def listening(client: Client, pattern: str = "kv-v2/*", after: str = "") -> Iterator[list[Event]]:
    """What a subscription is told; ready when it is held."""
    told: list[Event] = []
    stream = client.events.subscribe(pattern, after=after)
    stream.__enter__()

    thread = threading.Thread(target=told.extend, args=(stream,), daemon=True)
    thread.start()
    yield told
    client.close()  # wakes the thread
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_node_that_stops_sends_its_subscribers_elsewhere(cluster: LocalCluster) -> None:
    name = cluster.wait_leader()
    address = cluster.node(name).api_address
    with httpx.Client(verify=ssl.create_default_context(cafile=cluster.ca_path), timeout=PATIENCE_S) as http:
        headers = {"X-Vault-Token": cluster.token, "Accept": "text/event-stream"}
        with http.stream("GET", f"{address}/v1/sys/events/subscribe/*", headers=headers) as answer:
            lines = answer.iter_lines()
            next(lines)
            with ThreadPoolExecutor(1) as stopper:
                stopped = stopper.submit(cluster.stop, name)
                assert any("this node is stopping" in line for line in lines)
                assert stopped.result(), "it ended by itself"
    cluster.start(name)
    cluster.wait_serving(name)


def test_a_restored_snapshot_makes_subscribers_of_every_node_read_again(
    cluster: LocalCluster, mount: str
) -> None:
    headers = {"X-Vault-Token": cluster.token}
    url = f"{nodes(cluster)[0]}/v1/sys/storage/raft/snapshot"
    with httpx.Client(
        verify=ssl.create_default_context(cafile=cluster.ca_path), headers=headers, timeout=60
    ) as http:
        snapshot = http.get(url).content
        clients = [Client(each, Token(cluster.token), ca_file=cluster.ca_path) for each in nodes(cluster)]
        with listening(clients[0]) as one, listening(clients[1]) as two, listening(clients[2]) as three:
            assert http.post(url, content=snapshot).status_code == 204
            for told in (one, two, three):
                poll(
                    lambda told=told: [each.metadata["reason"] for each in told if each.reread],
                    what="told to read again",
                    timeout=60,
                )


def test_nothing_is_missed_when_the_node_of_the_subscription_is_killed(
    cluster: LocalCluster, mount: str
) -> None:
    with library(cluster) as writer, library(cluster) as client, listening(client) as told:
        ours = lambda: [each.secret for each in told if each.mount == mount and not each.reread]  # noqa: E731
        for number in range(20):
            writer.kv_v2(mount).put(f"n{number}", {})
        poll(lambda: len(ours()) == 20, what="what was written before the kill")
        node = next(each for each in cluster.nodes if each.api_address == client.endpoint)
        cluster.kill(node.id)
        for number in range(20, 40):
            writer.kv_v2(mount).put(f"n{number}", {})
        poll(lambda: len(ours()) >= 40, what="what was written after it")
        assert ours() == [f"n{number}" for number in range(40)]
        assert client.endpoint != node.api_address


def test_a_follower_tells_of_all_that_is_asked_of_another_node_and_of_no_more(
    cluster: LocalCluster, mount: str
) -> None:
    leader = cluster.wait_leader()
    asked, heard = [each for each in cluster.nodes if each.id != leader]
    here, there = (Place(each.api_address, cluster.ca_path) for each in (asked, heard))
    asyncio.run(all_of_it_is_told(here, there, cluster.token, mount))


def place_of(region: RegionOfOne) -> Place:
    assert region.server.ca is not None
    return Place(region.server.address, region.server.ca)


def test_another_region_hears_of_changes_at_once_and_callers_see_no_error_while_the_primary_changes(
    tmp_path: Path,
) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        changes_reach_warm_caches_and_cursors(eu, us, token)
        here, there = place_of(eu), place_of(us)
        asyncio.run(all_of_it_is_told(here, there, token))
        asyncio.run(a_cursor_that_is_too_old_is_answered_by_read_again(here, there, token))
        callers_see_no_error(eu, us, token, tmp_path / "authorities.pem")


def changes_reach_warm_caches_and_cursors(eu: RegionOfOne, us: RegionOfOne, token: str) -> None:
    eu.must(token, "POST", "secret/data/app", {"data": {"v": "1"}})
    us.wait_level(token, eu.regions(token)["position"])
    cache = Cache(push=True, fresh_s=3600, stale_s=3600)
    with (
        Client(us.server.address, Token(token), ca_file=us.server.ca, cache=cache) as near,
        Client(eu.server.address, Token(token), ca_file=eu.server.ca) as far,
    ):
        poll(lambda: near._core.push.is_up, what="listening")
        assert near.kv.get("app")["v"].reveal() == "1"
        assert near.kv.get("app").age_s > 0, "it is in the cache"
        for value in "234":
            far.kv.put("app", {"v": value})
            poll(lambda value=value: near.kv.get("app")["v"].reveal() == value, what="the new value")
        stream = far.events.subscribe("kv-v2/data-write")
        with stream:
            far.kv.put("app", {"v": "5"})
            heard = next(stream)
        far.kv.put("app", {"v": "6"})
        with near.events.subscribe("kv-v2/data-write", after=heard.cursor) as there:
            assert next(there).metadata["current_version"] == "6"


def callers_see_no_error(eu: RegionOfOne, us: RegionOfOne, token: str, bundle: Path) -> None:
    bundle.write_bytes(b"".join(region.server.ca.read_bytes() for region in (eu, us) if region.server.ca))
    failures: list[Exception] = []
    written: list[tuple[int, int]] = []
    stop = threading.Event()
    addresses = [eu.server.address, us.server.address]

    def use(first: int) -> None:
        order = addresses[first:] + addresses[:first]
        with Client(order, Token(token), ca_file=bundle, timeout_s=60) as client:
            while not stop.is_set():
                try:
                    written.append((first, client.kv.put(f"of-{first}", {"n": "1"}).version))
                    with contextlib.suppress(NotFound):  # what may be old may not have arrived here
                        client.kv.get(f"of-{first}", consistency=STALE_OK)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=use, args=(first,)) for first in range(2)]
    for each in threads:
        each.start()
    try:
        poll(lambda: len(written) > 10, what="writes before")
        eu.must(token, "POST", "sys/regions/switchover", {"name": "us"}, timeout=60.0)
        before = len(written)
        poll(lambda: len(written) > before + 10, what="writes after")
    finally:
        stop.set()
        for each in threads:
            each.join(PATIENCE_S)
    assert failures == []
    for first in range(2):
        kept = us.must(token, "GET", f"secret/metadata/of-{first}")["data"]["current_version"]
        assert kept == len([each for which, each in written if which == first]), "each write once"
