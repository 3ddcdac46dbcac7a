"""The network between regions on this machine, as a process of its own: start it, change it, stop it.

Each region has an address of its own in 127.0.0.0/8 that its links leave from; its nodes listen there, and are told
to others by the address of a door.
"""

import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from node.cli import local_process as process
from node.cli.local_layout import write_private
from node.cli.local_process import ClusterError
from node.wan.orders import Configuration, Door, Refused, Ways, ask, check_path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
PROGRAM = ("node.wan",)


class LocalWan:
    """The network of `directory`. Methods raise ClusterError."""

    def __init__(self, directory: Path) -> None:
        self._config = directory.absolute() / "wan.json"
        self._control = directory.absolute() / "wan.sock"
        self._log, self._pid = directory.absolute() / "wan.log", directory.absolute() / "wan.pid"

    def start(
        self, regions: Mapping[str, str], doors: Iterable[Door], ways: Iterable[Ways] = (), *, seed: int = 0
    ) -> None:
        """Run it, if it does not run yet; returns when its doors are open. Every way is as `ways` say, and uncut."""
        if not self.alive():
            self._check()
            told = Configuration(dict(regions), list(doors), list(ways), seed)
            write_private(self._config, msgspec.json.encode(told))
            process.spawn(
                self._config,
                str(self._control),
                log=self._log,
                pid_file=self._pid,
                env={},
                program=PROGRAM,
            )
            self._wait_ready()
        self.change(cut="")
        for each in ways:
            self._ask(each)

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if (pid := process.find(self._config, pid_file=self._pid)) is not None:
                process.send(pid, number)
                process.wait_gone(self._config, pid_file=self._pid, timeout=STOP_TIMEOUT_S)

    def alive(self) -> bool:
        return process.find(self._config, pid_file=self._pid) is not None

    def cut(self, here: str = "", there: str = "", *, swallow: bool = False, one_way: bool = False) -> None:
        """Cut the ways between two regions ("": all others). swallow: nobody is told, nothing gets through."""
        self.change(here, there, one_way=one_way, cut="swallow" if swallow else "reset")

    def heal(self, here: str = "", there: str = "") -> None:
        self.change(here, there, cut="")

    def change(
        self, here: str = "", there: str = "", *, one_way: bool = False, **conditions: Any
    ) -> list[dict[str, Any]]:
        """Give the ways between two regions other conditions (node/wan/conditions.py); what they are like then."""
        return self._ask(Ways(here, there, one_way, conditions))

    def _ask(self, order: Ways) -> list[dict[str, Any]]:
        if not self._control.exists():
            raise ClusterError(
                f"There is no network between regions in {self._control.parent}: it is not running."
            )
        try:
            return ask(self._control, order)
        except Refused as error:
            raise ClusterError(f"{error}.") from None

    def _check(self) -> None:
        try:
            check_path(self._control)
        except Refused as error:
            raise ClusterError(f"{error}.") from None

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                ask(self._control, Ways())
                return
            except Refused as error:
                if not self.alive() or time.monotonic() > deadline:
                    raise ClusterError(f"{error}.\n{process.last_lines(self._log)}") from None
            time.sleep(POLL_S)
