"""`make up`, `make down`, `make clean`: what a newcomer does in the first five minutes."""

import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.local_cluster import LocalCluster
from node.cli.local_regions import LocalRegions, read_marker

DIRECTORY = "cluster"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    directory = tmp_path / DIRECTORY
    if read_marker(directory) is not None:
        LocalRegions.open(directory).remove()
    elif directory.exists():
        LocalCluster.open(directory).remove()


def strongroom(here: Path, *arguments: str, code: int = 0) -> str:
    """What `strongroom local ...` prints. Its processes must outlive it."""
    command = [sys.executable, "-m", "node.cli", "local", *arguments, "-directory", DIRECTORY]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_up_shows_a_failover_and_down_keeps_the_data(here: Path) -> None:
    base = str(LocalCluster(here / DIRECTORY).nodes[0].api_port)
    shown = strongroom(here, "up", "-port-base", base)
    assert re.search(r"the cluster took no writes for \d+\.\d\d s, until n[123] led it", shown)
    assert "secret/data/hello is at version 2 on all three nodes" in shown
    report = json.loads(strongroom(here, "status", "-format=json"))
    assert report["leader_id"] in {"n1", "n2", "n3"}
    assert [(node["reachable"], node["voter"], node["sealed"]) for node in report["nodes"]] == [
        (True, True, False)
    ] * 3
    assert stat.S_IMODE((here / DIRECTORY / "env").stat().st_mode) == 0o600
    greeting = _paste_the_lines(here, shown)

    cluster = LocalCluster.open(here / DIRECTORY)
    cluster.kill("n2")
    assert "unreachable" in strongroom(here, "status")
    again = strongroom(here, "up")
    assert "Starting n2" in again
    assert "Killing" not in again, "the demonstration is not repeated"
    assert "Stopping n1, n2 and n3" in strongroom(here, "down")
    assert not any(cluster.alive(node.id) for node in cluster.nodes)
    strongroom(here, "status", code=2)
    assert _paste_the_lines(here, strongroom(here, "up")) == greeting
    strongroom(here, "clean")
    assert list(here.iterdir()) == []


@pytest.mark.timeout(240)
def test_regions_show_what_they_survive_and_come_back_as_they_were(here: Path) -> None:
    base = str(LocalRegions(here / DIRECTORY, regions=2, nodes=1).clusters["eu"].nodes[0].api_port)
    shown = strongroom(here, "up", "-regions=2", "-nodes=1", "-port-base", base)
    assert re.search(r"visible in us \d+ ms after it was acknowledged", shown)
    assert re.search(r"RTO: writes were taken again \d+\.\d\d s after the death of eu", shown)
    assert "us orders writes. This node is in us." in shown
    assert "does not get on" not in shown
    regions = LocalRegions.open(here / DIRECTORY)
    strongroom(here, "wan", "-cut", "eu")
    regions.wait_stuck("eu")
    regions.kill("us")
    assert "us orders writes" in strongroom(here, "up"), "it heals the network and starts what is dead"
    assert _greeting(regions, "eu") == _greeting(regions, "us")
    regions.wait_following("eu", "us")
    strongroom(here, "up", "-regions=3", code=1)
    strongroom(here, "down")
    assert not regions.running()
    assert not regions.wan.alive()
    strongroom(here, "clean")
    assert list(here.iterdir()) == []


def _greeting(regions: LocalRegions, name: str) -> str:
    return str(regions.clusters[name].must(f"{name}-1", "GET", "secret/data/hello")["data"]["data"])


def _paste_the_lines(here: Path, shown: str) -> str:
    """Do what the last lines say, as a user would; all three clients must read the same greeting, which is returned."""
    lines = [line.strip() for line in shown.splitlines()]
    source = next(line for line in lines if line.startswith("source "))
    start = lines.index("and then, for example,") + 1
    greetings = set()
    for line in lines[start : start + 3]:
        command = f"set -e; {source}; {line}"
        done = subprocess.run(["bash", "-c", command], cwd=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.quote(line)}: {done.stdout}{done.stderr}"
        greetings |= set(re.findall(r"written after the leader's death, [0-9a-f]{6}", done.stdout))
    assert len(greetings) == 1
    return greetings.pop()
