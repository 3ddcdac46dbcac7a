"""The composition root: makes the parts that answer requests, and wires them. The process: node/process.py."""

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from node import warming
from node.api.vault import (
    about,
    audit_devices,
    auth_mounts,
    capabilities,
    cluster,
    entities,
    entity_aliases,
    events,
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
    region_links,
    regions,
    rekey,
    remount,
    replication,
    seal,
    specification,
    system,
    tokens,
    tools,
    wrapping,
)
from node.api.vault.autopilot import AutopilotPaths
from node.api.vault.drills import Drills
from node.api.vault.snapshot_plans import SnapshotPlans
from node.api.vault.snapshots import Snapshots
from node.audit.log import AuditLog
from node.auth.identity import TokenAuthority
from node.auth.methods.catalog import auth_methods
from node.auth.methods.lockout import Lockout
from node.autopilot.loop import Autopilot
from node.backup.automatic import Automatic
from node.backup.take import Taking
from node.config import Settings
from node.core.core import Core
from node.core.router import Route, Table
from node.engines import catalog, cubbyhole
from node.entities.directory import Directory
from node.events.hub import Hub
from node.memory import MemoryLifecycle
from node.policy.cache import PolicyCache
from node.regions import control
from node.telemetry.metrics import (
    CacheState,
    EventState,
    LeaseState,
    Metrics,
    NodeState,
    RegionState,
    SnapshotState,
)

if TYPE_CHECKING:
    from node.lifecycle import NodeLifecycle

TOKEN_FILE = Path("~/.vault-token")

log = structlog.get_logger("server")


def compose(settings: Settings, lifecycle: "NodeLifecycle | MemoryLifecycle") -> Core:
    """The parts that answer requests, wired; the store comes and goes with the seal."""
    metrics, directory, lockout = Metrics(), Directory(), Lockout()
    methods = auth_methods(lockout)
    audit = AuditLog(settings.audit_files)
    metrics.registry.register(NodeState(lifecycle, audit))
    taking, autopilot = Taking(), Autopilot()
    hub = Hub(settings.event_subscribers_max)
    automatic = Automatic(taking, settings.snapshot_dir)
    metrics.registry.register(SnapshotState(automatic))
    metrics.registry.register(EventState(hub.measured))
    core = Core(
        settings=settings,
        lifecycle=lifecycle,
        audit=audit,
        policies=PolicyCache(),
        tokens=TokenAuthority(directory),
        directory=directory,
        metrics=metrics,
        system=Table(_system_routes(settings, lockout, taking, automatic, autopilot)),
        revokers=catalog.revokers(),
        engines=catalog.tables() | {kind: method.table for kind, method in methods.items()},
        methods=methods,
        events=hub,
        loops=(autopilot.run, automatic.run, warming.run),
    )

    def serving() -> Core:
        """The core that answers: what is made here may be taken over by one that answered before it was there."""
        return getattr(lifecycle, "core", core)

    metrics.registry.register(RegionState(lambda: control.measured(serving())))
    metrics.registry.register(LeaseState(lambda: _leases_behind(serving())))
    metrics.registry.register(CacheState(lambda: _cached(serving())))
    return core


def _system_routes(
    settings: Settings, lockout: Lockout, taking: Taking, automatic: Automatic, autopilot: Autopilot
) -> list[Route]:
    """The paths that lie in no mount."""
    routes = [
        *system.routes(),
        *seal.routes(),
        *cluster.routes(),
        *Snapshots(taking).routes(),
        *SnapshotPlans(automatic).routes(),
        *regions.routes(),
        *region_links.routes(),
        *replication.routes(),
        *AutopilotPaths(autopilot).routes(),
        *Drills(automatic, autopilot).routes(),
        *auth_mounts.routes(lockout),
        *events.routes(),
        *entities.routes(),
        *entity_aliases.routes(),
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
    return routes


def _cached(core: Core) -> dict[str, int] | None:
    if core.store is None:
        return None
    values = core.store.values
    return {
        "decrypted_bytes": max(0, values.size_bytes),
        "packed_bytes": values.packed.size_bytes,
        "packed_values": len(values.packed),
    }


def _leases_behind(core: Core) -> tuple[int, int] | None:
    return None if core.store is None else core.store.reads.leases_behind(core.store.now_ns())
