"""The first command of a store: one atomic batch, so that a store is never half made."""

import msgspec

from node import VERSION, seals
from node.config import Settings
from node.enrol import CA_CONTEXT
from node.policy.default import DEFAULT_POLICY
from storage.command import (
    LEVEL,
    AnyCommand,
    Batch,
    ClusterInit,
    EntryPut,
    KeyTermAdd,
    NodePut,
    PolicyPut,
    SystemSecretPut,
    batch,
)
from storage.keyring import FIRST_TERM, KIND_ENTRY, Context, Keyring
from storage.rows import KeyTerm
from storage.seal import SealFile
from storage.secret import Secret


def node_record(settings: Settings, now_ns: int, level: int = LEVEL) -> NodePut:
    """What the other nodes should know of this one."""
    return NodePut(
        time_ns=now_ns,
        node_id=settings.node_id,
        region=settings.region,
        api_address=settings.api_address,
        cluster_address=settings.cluster_address,
        link_address=settings.link_address,
        software=VERSION,
        level=level,
    )


def settlement(settings: Settings, now_ns: int, keyring: Keyring, ca_key: Secret) -> Batch:
    """What a region that begins to follow adds to the state that it fetched: its authority and its first node."""
    # it is this region's own: later terms may turn out to be no part of the history
    sealed = keyring.seal(CA_CONTEXT, ca_key.reveal(), term=FIRST_TERM)
    return batch(
        now_ns,
        SystemSecretPut(time_ns=now_ns, name="ca-key", value=sealed),
        node_record(settings, now_ns),
    )


def genesis(
    *,
    settings: Settings,
    now_ns: int,
    cluster_id: str,
    keyring: Keyring,
    ca_key: Secret,
    root_token: AnyCommand,
    recovery: SealFile | None = None,
) -> Batch:
    """Everything that a new store holds: its name, keys, CA, first node, default policy, root token, recovery seal."""
    wrapped = keyring.new_term(FIRST_TERM)
    keyring.load([KeyTerm(term=FIRST_TERM, wrapped_key=wrapped, created_ns=now_ns)])
    return batch(
        now_ns,
        ClusterInit(time_ns=now_ns, cluster_id=cluster_id, cluster_name=settings.cluster_name),
        KeyTermAdd(time_ns=now_ns, term=FIRST_TERM, wrapped_key=wrapped),
        SystemSecretPut(time_ns=now_ns, name="ca-key", value=keyring.seal(CA_CONTEXT, ca_key.reveal())),
        node_record(settings, now_ns),
        PolicyPut(time_ns=now_ns, name="default", text=DEFAULT_POLICY),
        root_token,
        *_recovery(keyring, now_ns, recovery),
    )


def _recovery(keyring: Keyring, now_ns: int, file: SealFile | None) -> list[AnyCommand]:
    if file is None:
        return []
    place = Context(kind=KIND_ENTRY, mount_id=seals.VIEW, path=seals.RECOVERY, version=0)
    value = keyring.seal(place, msgspec.json.encode(file.as_dict()))
    return [EntryPut(time_ns=now_ns, view=seals.VIEW, path=seals.RECOVERY, value=value, expect=0)]
