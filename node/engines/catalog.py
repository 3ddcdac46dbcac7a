"""The secret engines that this build has: what can be mounted, and who answers for it."""

from dataclasses import dataclass

from node.core.router import Table
from node.engines import kv, kv_v1, pki, transit
from node.engines.pki import certs
from node.errors import InvalidRequest
from node.leases.manager import Revokers

KV_VERSIONS = frozenset({"1", "2"})


@dataclass(frozen=True, slots=True)
class Engine:
    """What a mount is: Mount.kind and Mount.version."""

    kind: str
    version: int = 0


def tables() -> dict[str, Table]:
    """Routes relative to a mount, by Mount.engine."""
    unversioned = Table(kv_v1.routes())
    return {
        "kv-v1": unversioned,
        "generic-v1": unversioned,
        "kv-v2": Table(kv.routes()),
        "pki": Table(pki.routes()),
        "transit": Table(transit.routes()),
    }


def revokers() -> Revokers:
    """How the engines that hand out leases take back what they gave, by Mount.engine."""
    return {"pki": certs.end_lease}


def engine(kind: str, version: str) -> Engine:
    """What a client means by a type and an options.version. Raises InvalidRequest with Vault's words."""
    if kind == "kv-v2":
        return Engine("kv", 2)
    if kind in ("kv", "kv-v1"):
        if version and version not in KV_VERSIONS:
            raise InvalidRequest(f'no version "{version}" of the kv engine: there are 1 and 2')
        return Engine("kv", 1 if kind == "kv-v1" else int(version or 1))
    if kind in ("pki", "transit"):
        return Engine(kind)
    if kind == "generic":
        return Engine("generic", 1)
    raise InvalidRequest(f"plugin not found in the catalog: {kind}")
