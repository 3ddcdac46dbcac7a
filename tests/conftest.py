"""For all tests: in CI a test that could not run has failed; who gets which port; what runs beside what."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support import ports
from support.patience import PATIENCE_S
from xdist.scheduler import LoadScopeScheduling

from node.cli import local_cluster

IN_CI = os.environ.get("CI") == "true"

# With pytest -n, two chains of tests that start several servers run on one worker each: those of tests/system, which
# share a cluster, and these, which start clusters of their own.
OWN_CLUSTERS = frozenset({
    "chaos/test_regions", "system/test_full_disk", "system/test_kill", "system/test_local_up",
    "system/test_membership_changes", "system/test_region_links", "system/test_region_parting",
    "system/test_regions", "system/test_regions_access", "system/test_regions_three", "system/test_rekey_cluster",
    "system/test_snapshot_plans", "system/test_snapshots", "upgrade/test_former_releases",
    "upgrade/test_mixed_cluster",
})  # fmt: skip
# Of tests/system, those that have enough with a server or two: as all other files, they run where there is room.
SINGLE = frozenset({
    "system/test_dev_server", "system/test_engines_page", "system/test_hvac_auth", "system/test_hvac_engines",
    "system/test_hvac_kv", "system/test_hvac_sys", "system/test_kill_points", "system/test_openapi",
    "system/test_read_workers", "system/test_recorded", "system/test_recorded_cli",
    "system/test_vault_configuration", "system/test_vault_keys",
})  # fmt: skip
LONG = ("tests/system/", "tests/upgrade/", "tests/consensus/")  # so they come before other files


def unit_of(nodeid: str) -> str:
    """The tests that have this in common run on one worker, in their order."""
    file = nodeid.partition("::")[0]
    name = file.removeprefix("tests/").removesuffix(".py")
    if name in OWN_CLUSTERS:
        return "clusters of their own"
    if name.startswith("system/") and name not in SINGLE:
        return "the shared cluster"
    return file


class Units(LoadScopeScheduling):
    """For pytest -n: units go to workers in the order of their first tests."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Units:
    config.option.loadscopereorder = False
    return Units(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left alone with it at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (unit_of(item.nodeid).endswith(".py"), not item.nodeid.startswith(LONG)))


def pytest_configure() -> None:
    ports.give_to_local_clusters()
    local_cluster.STOP_TIMEOUT_S, local_cluster.ASK_TIMEOUT_S = PATIENCE_S, 5.0
    local_cluster.REQUEST_TIMEOUT_S = (
        PATIENCE_S  # for what must succeed, and is refused while somebody is elected
    )
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
    settings.register_profile("patient", **patient)
    settings.load_profile("patient")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The machine of CI has what every test needs; elsewhere a skip says why."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
