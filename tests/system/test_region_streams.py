"""What travels between two regions that run: no faster than it may, and for longer than a certificate is good."""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509
from support import brief_certificates
from support.patience import PATIENCE_S
from support.processes import poll, records
from support.regions import RegionOfOne, distant_regions

from node.cli.local_wan import LocalWan
from node.regions.throttle import SLICE_S

CAP_BYTES_PER_S = 125_000  # 1Mbit
VALUE_BYTES = 400_000
UNCAPPED_BYTES_PER_S = 20_000  # of what passes a cap: greetings, handshakes, headers
Apart = tuple[RegionOfOne, RegionOfOne, str, LocalWan]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """eu orders writes; the certificates of both are good for four seconds."""
    with distant_regions(tmp_path_factory.mktemp("streams"), delay_s=0.001) as (eu, us, token, wan):
        for region in (eu, us):
            region.server.stop()
            region.server.program = (brief_certificates.__file__,)
            region.server.start()
        for region in (eu, us):
            region.server.wait_health(200)
        us.wait_level(token, eu.regions(token)["position"])
        yield eu, us, token, wan


def carried(wan: LocalWan) -> int:
    """Bytes from eu to us, so far."""
    return sum(each["bytes"] for each in wan.change("eu", "us", one_way=True))


def ends(region: RegionOfOne) -> datetime:
    """When the certificate ends that the region shows on links now."""
    host, _, port = region.door.target.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), PATIENCE_S) as plain,
        context.wrap_socket(plain) as shown,
    ):
        der = shown.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).not_valid_after_utc


def written(eu: RegionOfOne, us: RegionOfOne, token: str, value: str) -> None:
    eu.must(token, "POST", "secret/data/a", {"data": {"v": value}}, timeout=60.0)
    us.wait_level(token, eu.regions(token)["position"])


def test_a_cap_that_is_set_while_a_region_runs_holds_on_the_wire(regions: Apart) -> None:
    eu, us, token, wan = regions
    refused = eu.server.request("POST", "sys/regions/settings", {"bandwidth": "fast"}, token=token)
    assert (refused.status, "10Mbit" in refused.body["errors"][0]) == (400, True)
    eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "1Mbit"})
    told = eu.must(token, "GET", "sys/regions/settings")["data"]
    assert told == {"bandwidth": "1Mbit", "switchover_max_lag": 10000, "promote_max_lag": "0s"}
    assert us.must(token, "GET", "sys/regions/settings")["data"]["bandwidth"] == "", "it is eu's alone"
    assert "sys/regions/settings" in [
        each["request"]["path"] for each in records(eu.directory / "audit.jsonl")
    ]

    poll(lambda: eu.regions(token)["bytes_per_second_max"] == CAP_BYTES_PER_S, what="the cap is in force")
    before, began = carried(wan), time.monotonic()
    written(eu, us, token, os.urandom(VALUE_BYTES // 2).hex())
    took_s, sent = time.monotonic() - began, carried(wan) - before
    assert sent >= VALUE_BYTES, "nothing was measured"
    # the last slice is on its way when it is handed on
    assert sent <= CAP_BYTES_PER_S * (took_s + SLICE_S) + UNCAPPED_BYTES_PER_S * (took_s + 1)


def test_regions_outlive_the_certificates_of_their_links(regions: Apart) -> None:
    eu, us, token, wan = regions
    eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "unlimited"})
    first = max(ends(eu), ends(us))
    poll(lambda: datetime.now(UTC) > first, what="the end of both certificates")
    written(eu, us, token, "over connections that are open")
    wan.cut()
    poll(lambda: us.regions(token)["stuck"], what="the cut is noticed")
    wan.heal()
    written(eu, us, token, "over new ones")
    assert min(ends(eu), ends(us)) > first, "they were renewed"


def test_a_promotion_that_says_nothing_of_a_loss_goes_by_the_settings_of_its_region(regions: Apart) -> None:
    eu, us, token, _ = regions
    eu.server.kill()
    poll(
        lambda: us.server.request("POST", "sys/regions/promote", token=token).status == 400, what="a refusal"
    )
    us.must(token, "POST", "sys/regions/settings", {"promote_max_lag": "1h"})
    poll(lambda: us.server.request("POST", "sys/regions/promote", token=token).status == 200, what="us")
