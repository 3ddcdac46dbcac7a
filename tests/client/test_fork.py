"""A client that a process had before it forked, as servers do that start workers."""

import os
import threading
from collections.abc import Callable

import pytest
from strongroom import Client, Token
from support.stub_api import stub_api

SECRET = (200, {"data": {"data": {"v": "1"}, "metadata": {"version": 1}}})
WELL = {"GET /v1/secret/data/app": SECRET, "GET /v1/sys/health": (200, {})}
IN_TIME_S = 60


def in_a_child(action: Callable[[], bool]) -> bool:
    """Whether it said yes there, and in time."""
    child = os.fork()
    if child == 0:
        done = 1
        try:
            threading.Timer(IN_TIME_S, os._exit, (2,)).start()
            done = 0 if action() else 1
        finally:
            os._exit(done)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # it is what is tested
def test_a_child_shares_neither_connections_nor_locks_with_its_parent() -> None:
    with stub_api(WELL) as api, Client(api.address, Token("s.t")) as client:
        kv = client.kv
        assert kv.get("app").info.version == 1
        before = client._driver._http
        with client._driver._step:  # as another thread does at that moment
            child_reads = in_a_child(
                lambda: kv.get("app").info.version == 1 and client._driver._http is not before
            )
        assert child_reads
        assert kv.get("app").info.version == 1
        assert client._driver._http is before
