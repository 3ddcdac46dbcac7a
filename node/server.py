"""The composition root: makes the parts of a node, runs them, and ends them in order.

start: limits and logs -> data directory locked -> listener TLS -> API -> unseal
stop:  health says so -> leadership handed over -> requests drained -> store closed -> audit closed
"""

import asyncio
import fcntl
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from consensus.errors import ConsensusError
from node import VERSION, collector
from node.api.vault import (
    about,
    audit_devices,
    auth_mounts,
    capabilities,
    cluster,
    entities,
    generate_root,
    groups,
    identity_tokens,
    keys,
    leases,
    mount_lookup,
    mounts,
    password_policies,
    plugins,
    policies,
    policy_tester,
    regions,
    rekey,
    remount,
    seal,
    specification,
    system,
    tokens,
    tools,
    wrapping,
)
from node.api.vault.autopilot import AutopilotPaths
from node.api.vault.snapshot_plans import SnapshotPlans
from node.api.vault.snapshots import Snapshots
from node.audit.log import AuditLog
from node.auth.identity import TokenAuthority
from node.auth.methods.catalog import auth_methods
from node.auth.methods.lockout import Lockout
from node.autopilot.loop import Autopilot
from node.backup.automatic import Automatic
from node.backup.take import Taking, clear_work
from node.config import DEV_CA_FILE, Listener, Settings
from node.core.core import Core
from node.core.router import Table
from node.dev import DevLifecycle
from node.engines import catalog, cubbyhole
from node.entities.directory import Directory
from node.hardening import harden, raise_descriptor_limit
from node.identity import Layout
from node.listener_tls import ListenerTLS
from node.listeners import Listeners
from node.memory import MemoryLifecycle
from node.policy.cache import PolicyCache
from node.regions import control
from node.reload import CertificateError, ListenerFiles, reload
from node.telemetry import logs
from node.telemetry.logs import where
from node.telemetry.metrics import Metrics, NodeState, RegionState, SnapshotState
from storage.errors import StorageError
from storage.secret import Secret

if TYPE_CHECKING:
    from node.lifecycle import NodeLifecycle

TOKEN_FILE = Path("~/.vault-token")

log = structlog.get_logger("server")


class StartError(Exception):
    """The node cannot start; the message says what to mend."""


def run(
    settings: Settings,
    *,
    dev_root_token: str | None = None,
    store_token: bool = True,
    read_settings: Callable[[], Settings] | None = None,
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
            Layout(settings.data_dir).prepare()
            with _locked(settings.data_dir):
                clear_work(settings.data_dir)
                return uvloop.run(_serve_disk(settings, read_settings))
    except (StartError, CertificateError, StorageError, ConsensusError, OSError) as error:
        log.critical("node cannot run", reason=f"{type(error).__name__}: {error}")
        return 1


async def _serve_disk(settings: Settings, read_settings: Callable[[], Settings] | None) -> int:
    from node.lifecycle import NodeLifecycle  # what only a node with a disk needs to load

    running = _Running()
    layout = Layout(settings.data_dir)
    tls = ListenerTLS(settings, layout)
    tls.open()
    lifecycle = NodeLifecycle(settings=settings, tls=tls, layout=layout, on_failure=running.fail)
    return await _serve(running, settings, lifecycle, tls.context, read_settings)


async def _serve_memory(settings: Settings, read_settings: Callable[[], Settings] | None) -> int:
    running = _Running()
    lifecycle = MemoryLifecycle(settings, running.fail)
    return await _serve(running, settings, lifecycle, None, read_settings)


async def _serve(
    running: "_Running",
    settings: Settings,
    lifecycle: "NodeLifecycle | MemoryLifecycle",
    automatic: ssl.SSLContext | None,
    read_settings: Callable[[], Settings] | None,
) -> int:
    """`automatic` is the context of listeners that have no files."""
    core = lifecycle.core = compose(settings, lifecycle)
    listeners, files = Listeners(core), ListenerFiles()
    running.on_signals(lambda: reload(files, core.audit, read_settings))
    try:
        for listener in settings.listeners:
            await listeners.listen(listener.host, listener.port, _context(listener, automatic, files))
        log.info(
            "listening",
            addresses=[f"{item.host}:{item.port}" for item in settings.listeners],
            version=VERSION,
        )
        await lifecycle.start()
        async with collector.tuned(listeners.activity):
            await running.stopping.wait()
        log.info("stopping")
        await lifecycle.hand_over()
        await listeners.drain(settings.drain_timeout_s)
    finally:
        await lifecycle.stop()
        await listeners.drain(0)
        core.audit.close()
    log.info("stopped")
    return 1 if running.failed else 0


async def _serve_dev(settings: Settings, root_token: str | None, *, store_token: bool) -> int:
    running = _Running()
    lifecycle = DevLifecycle(settings, running.fail)
    core = lifecycle.core = compose(settings, lifecycle)
    listeners = Listeners(core)
    running.on_signals(core.audit.reopen)
    try:
        await _listen_dev(settings, listeners)
        token = await lifecycle.open(root_token)
        if store_token:
            _store_token(token)
        _print_dev_banner(settings, lifecycle, token, stored=store_token)
        async with collector.tuned(listeners.activity):
            await running.stopping.wait()
        await listeners.drain(settings.drain_timeout_s)
    finally:
        await lifecycle.stop()
        await listeners.drain(0)
        core.audit.close()
    return 1 if running.failed else 0


async def _listen_dev(settings: Settings, listeners: Listeners) -> None:
    listener, context = settings.listeners[0], None
    if not listener.tls_disable:
        from node.dev_tls import dev_context  # nobody waits for it without -dev-tls

        context = dev_context(settings.data_dir, [listener.host, *settings.dev_tls_names])
    await listeners.listen(listener.host, listener.port, context)


def compose(settings: Settings, lifecycle: "NodeLifecycle | MemoryLifecycle") -> Core:
    """The parts that answer requests, wired; the store comes and goes with the seal."""
    metrics, directory, lockout = Metrics(), Directory(), Lockout()
    methods = auth_methods(lockout)
    audit = AuditLog(settings.audit_files)
    metrics.registry.register(NodeState(lifecycle, audit))
    taking, autopilot = Taking(), Autopilot()
    automatic = Automatic(taking, settings.snapshot_dir)
    metrics.registry.register(SnapshotState(automatic))
    routes = [
        *system.routes(),
        *seal.routes(),
        *cluster.routes(),
        *Snapshots(taking).routes(),
        *SnapshotPlans(automatic).routes(),
        *regions.routes(),
        *AutopilotPaths(autopilot).routes(),
        *auth_mounts.routes(lockout),
        *entities.routes(),
        *groups.routes(),
        *identity_tokens.routes(),
        *mount_lookup.routes(),
        *mounts.routes(),
        *remount.routes(),
        *wrapping.routes(),
        *leases.routes(),
        *cubbyhole.routes(),
        *policies.routes(),
        *password_policies.routes(),
        *policy_tester.routes(),
        *capabilities.routes(),
        *tokens.routes(),
        *keys.routes(),
        *rekey.routes(),
        *generate_root.routes(),
        *about.routes(),
        *audit_devices.routes(),
        *plugins.routes(),
        *tools.routes(),
        *specification.routes(),
    ]
    if settings.metrics_unauthenticated:
        routes = [route for route in routes if route.pattern != "sys/metrics"]
        routes.append(system.open_metrics_route())
    core = Core(
        settings=settings,
        lifecycle=lifecycle,
        audit=audit,
        policies=PolicyCache(),
        tokens=TokenAuthority(directory),
        directory=directory,
        metrics=metrics,
        system=Table(routes),
        revokers=catalog.revokers(),
        engines=catalog.tables() | {kind: method.table for kind, method in methods.items()},
        methods=methods,
        loops=(autopilot.run, automatic.run),
    )
    metrics.registry.register(RegionState(lambda: control.measured(core)))
    return core


def _context(
    listener: Listener, automatic: ssl.SSLContext | None, files: ListenerFiles
) -> ssl.SSLContext | None:
    if listener.tls_disable:
        return None
    return automatic if listener.tls_cert_file is None else files.context(listener)


class _Running:
    """Until when, and how it ends."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.failed = False
        asyncio.get_running_loop().set_exception_handler(self._stop_on_bug)

    def fail(self) -> None:
        self.failed = True
        self.stopping.set()

    def on_signals(self, hang_up: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up)

    def _stop_on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that reached nobody is a bug: whatever it left half done, this node must not go on."""
        error = context.get("exception")
        if isinstance(error, OSError | ssl.SSLError):  # a client's connection, gone at a bad moment
            log.info("connection lost", error=type(error).__name__)
            return
        log.critical("unhandled", error=type(error).__name__, where=where(error) if error is not None else [])
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
def _locked(data_dir: Path) -> Iterator[None]:
    """Two processes on one data directory would destroy it."""
    fd = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{data_dir} is in use by another process") from None
        yield
    finally:
        os.close(fd)


def _store_token(token: Secret) -> None:
    """Where bao, vault and strongroom look for a token."""
    path = TOKEN_FILE.expanduser()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(token.reveal())


def _print_dev_banner(settings: Settings, lifecycle: DevLifecycle, token: Secret, *, stored: bool) -> None:
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
