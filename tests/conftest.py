"""For all tests: in CI a test that could not run has failed; who gets which port; what runs beside what."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from support import ports
from support.patience import PATIENCE_S
from xdist.scheduler import LoadScopeScheduling

from node.cli import local_cluster

IN_CI = os.environ.get("CI") == "true"

# One of these runs at a time: each starts several servers, or measures what happens in which order.
IN_TURN = ("tests/system/", "tests/chaos/", "tests/upgrade/")
# Of them, those that have enough with a server or two: they run beside the others.
BESIDE = frozenset(
    f"tests/{name}.py"
    for name in (
        "chaos/test_checker", "chaos/test_fuzz", "chaos/test_power", "chaos/test_regions_checks",
        "chaos/test_registers",
        "system/test_dev_server", "system/test_diagnose", "system/test_engines_page",
        "system/test_hvac_auth", "system/test_hvac_engines", "system/test_hvac_kv", "system/test_hvac_sys",
        "system/test_kill_points", "system/test_openapi", "system/test_recorded",
        "system/test_vault_configuration", "system/test_vault_keys", "upgrade/test_levels",
    )
)  # fmt: skip


class InTurn(LoadScopeScheduling):
    """For pytest -n: a file's tests stay together on one worker, and so do all files of IN_TURN."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "in turn" if file.startswith(IN_TURN) and file not in BESIDE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InTurn:
    return InTurn(config, log)


def pytest_configure() -> None:
    ports.give_to_local_clusters()
    local_cluster.STOP_TIMEOUT_S = PATIENCE_S


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
