"""One server process: its settings in, its exit code out.

start: limits and logs -> data directory locked -> listener TLS -> a first word (node/front.py) -> the rest -> unseal
stop:  health says so -> leadership handed over -> requests drained -> store closed -> audit closed

Nothing is imported here that a first answer does not need.
"""

import asyncio
import fcntl
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from consensus.errors import ConsensusError
from node import VERSION
from node.config import DEV_CA_FILE, Listener, Settings
from node.front import Entrance
from node.hardening import harden, raise_descriptor_limit
from node.reload import CertificateError, ListenerFiles, reload
from node.telemetry import logs
from node.telemetry.logs import name_of, where
from storage.errors import StorageError
from storage.secret import Secret

if TYPE_CHECKING:
    from node.core.core import Core
    from node.dev import DevLifecycle
    from node.lifecycle import NodeLifecycle
    from node.listeners import Listeners
    from node.memory import MemoryLifecycle

LOCK_WAIT_S = 10.0  # for the read workers of a process that was killed: the kernel is about to kill them, too
LOCK_POLL_S = 0.05
TOKEN_FILE = Path("~/.vault-token")

log = structlog.get_logger("server")

ReadSettings = Callable[[], Settings] | None
MakeContext = Callable[[Listener], ssl.SSLContext]


class StartError(Exception):
    """The node cannot start; the message says what to mend."""


def run(
    settings: Settings,
    *,
    dev_root_token: str | None = None,
    store_token: bool = True,
    read_settings: ReadSettings = None,
) -> int:
    """Run a node until SIGTERM or SIGINT. Returns the process's exit code: 0, or 1 if it could not start or go on.

    `read_settings` reads the configuration again, on SIGHUP.
    """
    harden()
    raise_descriptor_limit()
    logs.configure(
        level=settings.log_level, form=settings.log_format, node_id=settings.node_id, region=settings.region
    )
    for notice in settings.notices:
        log.warning("configuration", notice=notice)
    try:
        with _pid_file(settings.pid_file):
            if settings.dev:
                return uvloop.run(_serve_dev(settings, dev_root_token, store_token=store_token))
            if settings.storage == "inmem":
                return uvloop.run(_serve_memory(settings, read_settings))
            from node.identity import Layout

            Layout(settings.data_dir).prepare()
            with _locked(settings.data_dir, patience_s=LOCK_WAIT_S if settings.read_workers else 0.0) as lock:
                return uvloop.run(_serve_disk(settings, read_settings, lock))
    except (StartError, CertificateError, StorageError, ConsensusError, OSError) as error:
        log.critical("node cannot run", reason=f"{type(error).__name__}: {error}")
        return 1


async def _serve_disk(settings: Settings, read_settings: ReadSettings, lock: int) -> int:
    from node.identity import Layout
    from node.listener_tls import ListenerTLS

    layout = Layout(settings.data_dir)
    tls = ListenerTLS(settings, layout)
    tls.open()

    def make(running: _Running) -> "NodeLifecycle":
        from node.backup.take import clear_work
        from node.lifecycle import NodeLifecycle

        clear_work(settings.data_dir)
        return NodeLifecycle(settings=settings, tls=tls, layout=layout, on_failure=running.fail)

    def hire(core: "Core", listeners: "Listeners") -> None:
        if settings.read_workers:
            from node.workers.supervisor import Workers

            own = (lambda: tls.own) if tls.automatic else (lambda: None)
            core.workers = Workers(settings, listeners, core.metrics, core.audit, own=own, kept=[lock])

    return await _serve(settings, Entrance(layout.seal.exists), make, tls.context, read_settings, hire)


async def _serve_memory(settings: Settings, read_settings: ReadSettings) -> int:
    def make(running: _Running) -> "MemoryLifecycle":
        from node.memory import MemoryLifecycle

        return MemoryLifecycle(settings, running.fail)

    return await _serve(settings, Entrance(lambda: False), make, None, read_settings)


async def _serve(
    settings: Settings,
    entrance: Entrance,
    make: "Callable[[_Running], NodeLifecycle | MemoryLifecycle]",
    automatic: MakeContext | None,
    read_settings: ReadSettings,
    hire: "Callable[[Core, Listeners], None]" = lambda core, listeners: None,
) -> int:
    """`automatic` makes contexts of listeners that have no files; `make` makes the lifecycle, in a thread; `hire`
    gives the core its read workers.
    """
    running, files = _Running(), ListenerFiles()
    try:
        for listener in settings.listeners:
            await entrance.listen(listener.host, listener.port, _context(listener, automatic, files))
        addresses = [f"{item.host}:{item.port}" for item in settings.listeners]
        log.info("listening", addresses=addresses, version=VERSION)
        running.end_on_signals()
        lifecycle, listeners = await asyncio.to_thread(_load, settings, lambda: make(running))
    except BaseException:
        entrance.close()
        raise
    for door in entrance.doors:
        listeners.take(door)
    hire(lifecycle.core, listeners)
    running.on_hang_up(lambda: _reload(files, lifecycle.core, read_settings))
    await _serve_whole(settings, lifecycle, listeners, running)
    log.info("stopped")
    return 1 if running.failed else 0


def _reload(files: ListenerFiles, core: "Core", read_settings: ReadSettings) -> None:
    if core.workers is not None:
        core.workers.hang_up()
    reload(files, core.audit, read_settings)


async def _serve_whole(
    settings: Settings,
    lifecycle: "NodeLifecycle | MemoryLifecycle",
    listeners: "Listeners",
    running: "_Running",
) -> None:
    core = lifecycle.core
    try:
        await lifecycle.start()
        await running.until_told(listeners)
        log.info("stopping")
        await lifecycle.hand_over()
        await asyncio.gather(_drain_workers(core), listeners.drain(settings.drain_timeout_s))
    finally:
        await lifecycle.stop()
        await _drain_workers(core)
        await listeners.drain(0)
        core.audit.close()


async def _drain_workers(core: "Core") -> None:
    if core.workers is not None:
        await core.workers.drain()


def _load(
    settings: Settings, make: "Callable[[], NodeLifecycle | MemoryLifecycle]"
) -> "tuple[NodeLifecycle | MemoryLifecycle, Listeners]":
    """Blocking: all modules, and the parts made from them."""
    from node.listeners import Listeners
    from node.server import compose

    lifecycle = make()
    lifecycle.core = compose(settings, lifecycle)
    return lifecycle, Listeners(lifecycle.core)


async def _serve_dev(settings: Settings, root_token: str | None, *, store_token: bool) -> int:
    from node.dev import DevLifecycle
    from node.listeners import Listeners
    from node.server import compose

    running = _Running()
    lifecycle = DevLifecycle(settings, running.fail)
    core = lifecycle.core = compose(settings, lifecycle)
    listeners = Listeners(core)
    running.end_on_signals()
    running.on_hang_up(core.audit.reopen)
    try:
        await _listen_dev(settings, listeners)
        token = await lifecycle.open(root_token)
        if store_token:
            _store_token(token)
        _print_dev_banner(settings, lifecycle, token, stored=store_token)
        await running.until_told(listeners)
        await listeners.drain(settings.drain_timeout_s)
    finally:
        await lifecycle.stop()
        await listeners.drain(0)
        core.audit.close()
    return 1 if running.failed else 0


async def _listen_dev(settings: Settings, listeners: "Listeners") -> None:
    listener, context = settings.listeners[0], None
    if not listener.tls_disable:
        from node.dev_tls import dev_context  # nobody waits for it without -dev-tls

        context = dev_context(settings.data_dir, [listener.host, *settings.dev_tls_names])
    await listeners.listen(listener.host, listener.port, context)


def _context(
    listener: Listener, automatic: MakeContext | None, files: ListenerFiles
) -> ssl.SSLContext | None:
    if listener.tls_disable:
        return None
    make = files.context if listener.tls_cert_file is not None else automatic
    return None if make is None else make(listener)


class _Running:
    """Until when, and how it ends."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.failed = False
        asyncio.get_running_loop().set_exception_handler(self._stop_on_bug)

    def fail(self) -> None:
        self.failed = True
        self.stopping.set()

    def end_on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stopping.set)

    def on_hang_up(self, hang_up: Callable[[], object]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)

    async def until_told(self, listeners: "Listeners") -> None:
        """The time in which the node serves."""
        from node import collector

        async with collector.tuned(listeners.activity):
            await self.stopping.wait()

    def _stop_on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that reached nobody is a bug: whatever it left half done, this node must not go on."""
        error = context.get("exception")
        if isinstance(error, OSError | ssl.SSLError):  # a client's connection, gone at a bad moment
            log.info("connection lost", error=type(error).__name__)
            return
        log.critical("unhandled", error=name_of(error), where=where(error) if error is not None else [])
        self.fail()


@contextmanager
def _pid_file(path: Path | None) -> Iterator[None]:
    """The process's number in a file, as long as it runs."""
    if path is None:
        yield
        return
    path.write_text(f"{os.getpid()}\n")
    path.chmod(0o644)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(data_dir: Path, *, patience_s: float) -> Iterator[int]:
    """Two processes on one data directory would destroy it. The lock's descriptor: read workers hold it as well."""
    fd = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        ends = time.monotonic() + patience_s
        while not _try_lock(fd):
            if time.monotonic() >= ends:
                raise StartError(f"{data_dir} is in use by another process")
            time.sleep(LOCK_POLL_S)
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _store_token(token: Secret) -> None:
    """Where bao, vault and strongroom look for a token."""
    path = TOKEN_FILE.expanduser()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(token.reveal())


def _print_dev_banner(settings: Settings, lifecycle: "DevLifecycle", token: Secret, *, stored: bool) -> None:
    tls = not settings.listeners[0].tls_disable
    kind = f"in memory, one node, {'own' if tls else 'no'} TLS"
    lines = [
        f"==> Strongroom dev server: {kind}. Never run it in production: nothing is kept.",
        "",
        f"    export VAULT_ADDR={settings.api_address}",
        *([f"    export VAULT_CACERT={settings.data_dir / DEV_CA_FILE}"] if tls else ()),
        "",
        f"    Root token: {token.reveal().decode()}" + (f"   (stored in {TOKEN_FILE})" if stored else ""),
        f"    Unseal key: {lifecycle.unseal_key}",
        "    KV version 2 is mounted at secret/:  strongroom kv put secret/hello greeting=world",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()
