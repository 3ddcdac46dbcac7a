"""What the replicated state does with each kind of command: who applies it, and what it may disturb."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage import cluster, entries, kv, leases, mounts, regions, tokens
from storage import command as c
from storage.database import Database
from storage.outcome import Outcome

TOPICS = ("mounts", "policies", "keyring", "nodes", "tokens", "entries", "identity", "regions")


@dataclass(frozen=True, slots=True)
class Handling:
    """Both flags are off unless somebody thought about it: that is the safe side."""

    apply: Callable[[Database, Any], Outcome]
    topics: tuple[str, ...] = ()  # whose rows it may change
    apart: bool = (
        False  # it neither reads nor changes mounts' limits and KV tables: what Recent keeps stays as it is
    )
    harmless: bool = False  # it takes no permission from anybody


HANDLINGS: dict[type, Handling] = {
    c.ClusterInit: Handling(cluster.init, apart=True),
    c.KeyTermAdd: Handling(cluster.key_term_add, ("keyring",), apart=True, harmless=True),
    c.SystemSecretPut: Handling(cluster.system_secret_put, apart=True, harmless=True),
    c.NodePut: Handling(cluster.node_put, ("nodes",), apart=True, harmless=True),
    c.NodeRemove: Handling(cluster.node_remove, ("nodes",), apart=True, harmless=True),
    c.JoinTokenPut: Handling(cluster.join_token_put, apart=True, harmless=True),
    c.JoinTokenTake: Handling(cluster.join_token_take, apart=True, harmless=True),
    c.LevelRaise: Handling(cluster.level_raise, apart=True, harmless=True),
    c.LevelProbe: Handling(cluster.level_probe, apart=True, harmless=True),
    c.MountPut: Handling(mounts.put, ("mounts",)),
    c.MountTune: Handling(mounts.tune, ("mounts",)),
    c.MountMove: Handling(mounts.move, ("mounts",)),
    c.MountRemove: Handling(mounts.remove, ("mounts", "tokens", "entries")),
    c.KvDelete: Handling(kv.delete, harmless=True),
    c.KvUndelete: Handling(kv.undelete, harmless=True),
    c.KvDestroy: Handling(kv.destroy, harmless=True),
    c.KvMetadataPut: Handling(kv.metadata_put, harmless=True),
    c.KvMetadataDelete: Handling(kv.metadata_delete, harmless=True),
    c.KvConfigPut: Handling(kv.config_put, ("mounts",), harmless=True),
    c.PolicyPut: Handling(mounts.policy_put, ("policies",), apart=True),
    c.PolicyDelete: Handling(mounts.policy_delete, ("policies",), apart=True),
    c.TokenPut: Handling(tokens.put, ("tokens",), apart=True, harmless=True),
    c.TokenRenew: Handling(tokens.renew, ("tokens",), apart=True),
    c.TokenRevoke: Handling(tokens.revoke, ("tokens", "entries"), apart=True),
    c.TokenUse: Handling(tokens.use, ("tokens",), apart=True, harmless=True),
    c.TokensExpire: Handling(tokens.expire, ("tokens", "entries"), apart=True),
    c.EntryPut: Handling(entries.put, ("entries",), apart=True, harmless=True),
    c.EntryDelete: Handling(entries.delete, ("entries",), apart=True, harmless=True),
    c.EntriesDelete: Handling(entries.delete_below, ("entries",), apart=True, harmless=True),
    c.EntriesExpire: Handling(entries.expire, ("entries",), apart=True, harmless=True),
    c.LeasePut: Handling(leases.put, harmless=True),
    c.LeaseRenew: Handling(leases.renew, harmless=True),
    c.LeasesEnd: Handling(leases.end, harmless=True),
    c.LeaseFailed: Handling(leases.failed, harmless=True),
    c.LeasesRemove: Handling(leases.remove, harmless=True),
    c.RegionFound: Handling(regions.found, ("regions",), apart=True, harmless=True),
    c.RegionPut: Handling(regions.put, ("regions",), apart=True, harmless=True),
    c.RegionRemove: Handling(regions.remove, ("regions",), apart=True, harmless=True),
    c.RegionHandover: Handling(regions.handover, ("regions",), apart=True, harmless=True),
    c.EpochBegin: Handling(regions.epoch_begin, ("regions",), apart=True, harmless=True),
    c.RegionDemote: Handling(regions.demote, ("regions",), apart=True, harmless=True),
    c.RegionLeave: Handling(regions.leave, ("regions", "entries"), apart=True, harmless=True),
}

OF_ONE_KEY = (c.KvDelete, c.KvUndelete, c.KvDestroy, c.KvMetadataPut, c.KvMetadataDelete)

NOT_IN_BATCHES = frozenset(
    {c.Batch, c.EpochBegin, c.RegionApply, c.RegionPromote, c.RegionDemote, c.RegionLeave, c.LevelRaise}
)
