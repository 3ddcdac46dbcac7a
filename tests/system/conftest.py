"""One cluster of three real servers for all system tests, and the clients that users have.

With STRONGROOM_SYSTEM_TARGET=openbao the tests that need no more than a server run against a real OpenBao
instead: so it is checked that they ask for what clients are used to. With STRONGROOM_SYSTEM_CLI=strongroom our own
command is run wherever they run `bao`.
"""

import json
import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import hvac
import pytest
from support.clusters import open_cluster
from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import Server, poll
from support.targets import BAO, Bao, Target, poll_until_answer, unique

from node.cli.local_cluster import LocalCluster
from node.cli.local_process import last_lines

REFERENCE = os.environ.get("STRONGROOM_SYSTEM_TARGET") == "openbao"
OURS_ONLY = frozenset({"running_cluster", "tmp_path"})  # fixtures of tests that say nothing about OpenBao


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Against OpenBao, only what runs on one server of either make."""
    if not REFERENCE:
        return
    here = Path(__file__).parent
    ours = [
        item
        for item in items
        if item.path.is_relative_to(here) and OURS_ONLY & set(getattr(item, "fixturenames", ()))
    ]
    config.hook.pytest_deselected(items=ours)
    items[:] = [item for item in items if item not in ours]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the nodes had to say."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if isinstance(cluster, LocalCluster) and report.failed:
        told = "\n".join(last_lines(node.log_path) for node in cluster.nodes)
        report.sections.append(("server logs", told))
    return report


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Started once; tests ask for `cluster`."""
    with open_cluster(tmp_path_factory.mktemp("system") / "cluster", must_end=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: LocalCluster) -> LocalCluster:
    """All three nodes running, open and caught up, whatever the test before did to them."""
    if not _settled(running_cluster):
        for node in running_cluster.nodes:
            running_cluster.resume(node.id)
        running_cluster.start_all()
        for node in running_cluster.nodes:
            if running_cluster.health(node.id) == 503:  # sealed: opens itself when it starts
                running_cluster.stop(node.id)
        running_cluster.start_all()
        for node in running_cluster.nodes:
            running_cluster.wait_caught_up(node.id)
    return running_cluster


def _settled(cluster: LocalCluster) -> bool:
    """Whether every node is open and all agree on who leads."""
    told = [cluster.account(node.id) or {} for node in cluster.nodes]
    leaders = {each.get("leader_id") for each in told}
    return len(leaders) == 1 and leaders <= {node.id for node in cluster.nodes}


@pytest.fixture
def follower(cluster: LocalCluster) -> str:
    """The id of a node that does not lead."""
    leader = cluster.wait_leader()
    return next(node.id for node in cluster.nodes if node.id != leader)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real OpenBao in its own development mode."""
    home = tmp_path_factory.mktemp("openbao")
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", unique("root"), home, real=True)
    arguments = [f"-dev-listen-address={target.address[7:]}", f"-dev-root-token-id={target.token}"]
    arguments.append("-dev-no-store-token")
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BAO), "server", "-dev", *arguments], stdout=log, stderr=log, env=target.environment("")
        )
    client = target.client()
    try:
        poll(lambda: poll_until_answer(client), what="an answer of OpenBao")
        yield target
    finally:
        client.adapter.close()
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)


@pytest.fixture(scope="session")
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server in memory, started from a configuration file as Vault's users write it; or OpenBao."""
    if REFERENCE:
        reference: Target = request.getfixturevalue("openbao")
        yield reference
        return
    home = tmp_path_factory.mktemp("single")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    listener = {"tcp": {"address": address, "tls_disable": True}}
    configuration = home / "vault.json"
    configuration.write_text(
        json.dumps({"backend": {"inmem": {}}, "listener": listener, "disable_mlock": True})
    )
    url = f"http://{address}"
    with Server(home / "run", f"-config={configuration}", address=url) as server:
        server.start()
        server.wait_health(501)
        opener = hvac.Client(url)
        made = opener.sys.initialize(secret_shares=1, secret_threshold=1)
        opener.sys.submit_unseal_key(made["keys"][0])
        opener.adapter.close()
        yield Target(url, str(made["root_token"]), home)


@pytest.fixture
def vault(single: Target) -> Iterator[hvac.Client]:
    """hvac as root, at the single server."""
    made = single.client()
    yield made
    made.adapter.close()


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """Where the clients of this test are pointed: a follower."""
    if REFERENCE:
        reference: Target = request.getfixturevalue("openbao")
        return reference
    cluster: LocalCluster = request.getfixturevalue("cluster")
    node = request.getfixturevalue("follower")
    home = tmp_path_factory.mktemp("home")
    return Target(cluster.node(node).api_address, cluster.token, home, ca=cluster.ca_path)


@pytest.fixture
def bao(target: Target) -> Bao:
    """The `bao` command, as root unless told otherwise."""
    return Bao(target)


@pytest.fixture
def client(target: Target) -> Iterator[hvac.Client]:
    """hvac as root."""
    made = target.client()
    yield made
    made.adapter.close()


@pytest.fixture
def mount(client: hvac.Client) -> str:
    """A KV mount (version 2) that only this test uses."""
    path = unique("kv")
    client.sys.enable_secrets_engine("kv", path=path, options={"version": "2"})
    if REFERENCE:  # it upgrades a new mount in the background, and refuses requests meanwhile
        poll(lambda: _usable(client, path), what="a usable mount")
    return path


def _usable(client: hvac.Client, path: str) -> bool:
    try:
        client.secrets.kv.v2.read_configuration(mount_point=path)
    except hvac.exceptions.VaultError:
        return False
    return True
