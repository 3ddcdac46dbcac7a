"""Commands about the cluster and its nodes. Tags 1 to 19."""

from storage.command.base import Command, Sealed


class ClusterInit(Command, frozen=True, tag=1):
    """The first command of a store. Rejected(ALREADY_INITIALIZED) ever after."""

    cluster_id: str
    cluster_name: str


class KeyTermAdd(Command, frozen=True, tag=2):
    """A new keyring term; the newest one encrypts. wrapped_key is the term's key under the root key."""

    term: int
    wrapped_key: bytes


class SystemSecretPut(Command, frozen=True, tag=3):
    """A secret of the cluster's own (the key of its CA), by name; not shared with other regions."""

    name: str
    value: Sealed


class NodePut(Command, frozen=True, tag=4):
    """What everybody should know of a node: where it answers and where it replicates.

    Rejected(LEVEL_UNKNOWN) if it does not know the level at which the cluster is.
    """

    node_id: str
    region: str
    api_address: str  # a URL
    cluster_address: str  # host:port
    link_address: str = ""  # host:port for other regions; "" if it takes no part in them
    software: str = ""  # the version that it runs
    level: int = 1  # the newest feature level that this version knows


class NodeRemove(Command, frozen=True, tag=5):
    node_id: str


class JoinTokenPut(Command, frozen=True, tag=6):
    """A one-time ticket for one node; only its keyed digest is stored."""

    digest: bytes
    expires_ns: int


class JoinTokenTake(Command, frozen=True, tag=7):
    """Use a ticket up. Rejected(TOKEN_INVALID) if unknown, expired or taken by another node.

    The node that took it may take it again until it expires, so that a lost answer can be asked for again.
    """

    digest: bytes
    node_id: str


class LevelRaise(Command, frozen=True, tag=8):
    """From now on commands of this feature level may be proposed. A level is never lowered.

    Rejected(LEVEL_UNKNOWN) if any registered node does not know it.
    """

    level: int


class LevelProbe(Command, frozen=True, tag=9):
    """Does nothing. It is of the level after this release's, so that tests can be a release ahead of it."""
