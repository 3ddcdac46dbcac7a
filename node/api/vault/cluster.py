"""sys/cluster/ and sys/storage/raft/: the nodes of the cluster, and how one enters and leaves it."""

import ipaddress
import os
from typing import Any

import msgspec

from consensus import errors as raft_errors
from node import VERSION, enrol, seals
from node.api.vault.snapshots import on_disk
from node.auth.fields import boolean, duration_ns
from node.core.core import Core
from node.core.fields import Field, Kind, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest, NoQuorum

TICKET_TTL_DEFAULT = "10m"
REMOVE_TIMEOUT_S = 15.0
HOSTS_MAX = 16
EVERYBODY_VOTES = "every node votes once it has caught up, and none stays without a vote"

_NODE = (
    *named(Kind.STRING, "node_id region version role leader_id"),
    *named(Kind.BOOLEAN, "initialized sealed"),
    *named(Kind.INTEGER, "term last_index commit_index applied_index"),
    Field("pid", Kind.INTEGER, "Of its process, for who asks from the same machine."),
)
_NODES = (
    Field(
        "nodes",
        Kind.OBJECTS,
        "Every registered node.",
        members=(
            *named(Kind.STRING, "node_id region api_address cluster_address version"),
            Field("voter", Kind.BOOLEAN, "Whether it counts for a majority."),
            Field("level", Kind.INTEGER, "Of what its release understands."),
        ),
    ),
    Field("level", Kind.INTEGER, "Of what all of them understand."),
)
_SERVER = (
    *named(Kind.STRING, "node_id address protocol_version"),
    *named(Kind.BOOLEAN, "leader voter"),
)
_CONFIGURATION = (
    Field(
        "config",
        Kind.OBJECT,
        members=(Field("index", Kind.INTEGER, "Always 0."), Field("servers", Kind.OBJECTS, members=_SERVER)),
    ),
)


def routes() -> list[Route]:
    """The table of this module."""
    return [*_cluster_routes(), *_raft_routes()]


def _cluster_routes() -> list[Route]:
    """What nodes and their operators ask in ways of our own."""
    return [
        Route(
            "sys/cluster/node",
            {Operation.READ: node},
            summary="This node, as it sees itself.",
            answers={Operation.READ: _NODE},
            sealed=True,
            audited=False,
            authenticated=False,
            fresh=False,
        ),
        Route(
            "sys/cluster/ca",
            {Operation.READ: ca},
            summary="The certificate of the cluster's authority.",
            answers={Operation.READ: (Field("certificate", Kind.STRING, "PEM."),)},
            sealed=True,
            audited=False,
            authenticated=False,
            fresh=False,
        ),
        Route(
            "sys/cluster/nodes",
            {Operation.READ: nodes},
            summary="Every node, and whether it votes.",
            answers={Operation.READ: _NODES},
        ),
        Route(
            "sys/cluster/join-token",
            {Operation.UPDATE: join_token},
            local=True,
            sudo=True,
            summary="Makes a token with which one node can join, once.",
            fields=(
                Field("ttl", Kind.DURATION, f"How long it is good; {TICKET_TTL_DEFAULT} if nothing is said."),
            ),
            answers={
                Operation.UPDATE: (
                    Field("token", Kind.STRING, "For `operator join` on the new node."),
                    Field("ttl", Kind.INTEGER, "Seconds."),
                )
            },
        ),
        Route(
            "sys/cluster/join",
            {Operation.UPDATE: join},
            local=True,
            authenticated=False,
            fresh=False,
            summary="Between nodes: a joining node spends its token.",
            fields=tuple(Field(name, Kind.ANY) for name in enrol.JoinRequest.__struct_fields__),
            answers={Operation.UPDATE: (of_any_name(Kind.ANY, "What the joining node needs."),)},
        ),
    ]


def _raft_routes() -> list[Route]:
    """What `operator raft` asks."""
    return [
        Route(
            "sys/storage/raft/join",
            {Operation.UPDATE: raft_join},
            local=True,
            summary="Enter the cluster that a join token names.",
            fields=(
                Field("join_token", Kind.STRING, "From `operator join-token` on a member."),
                Field(
                    "leader_api_addr",
                    Kind.STRING,
                    "Where to join, if not where the token says; or the token.",
                ),
                Field("non_voter", Kind.BOOLEAN, f"Must be false: {EVERYBODY_VOTES}."),
            ),
            shape=Shape.DOUBLE,
            answers={Operation.UPDATE: (Field("joined", Kind.BOOLEAN, "Whether it did."),)},
            sealed=True,
            authenticated=False,
            fresh=False,
        ),
        Route(
            "sys/storage/raft/configuration",
            {Operation.READ: configuration},
            summary="Who votes.",
            answers={Operation.READ: _CONFIGURATION},
        ),
        Route(
            "sys/storage/raft/remove-peer",
            {Operation.UPDATE: remove_peer},
            local=True,
            summary="Takes a node out of the cluster, for good.",
            fields=(Field("server_id", Kind.STRING, "The node's id.", required=True),),
        ),
        *(
            Route(
                f"sys/storage/raft/{verb}",
                {Operation.UPDATE: _refuse_votes},
                local=True,
                summary=f"Always refused: {EVERYBODY_VOTES}.",
                fields=(Field("server_id", Kind.STRING, "The node's id.", required=True),),
            )
            for verb in ("promote", "demote")
        ),
    ]


async def node(core: Core, request: Request, params: dict[str, str]) -> Response:
    """This node, as it sees itself; its pid only for callers on the same machine."""
    body: dict[str, Any] = {
        "node_id": core.settings.node_id,
        "region": core.settings.region,
        "version": VERSION,
        "initialized": core.lifecycle.initialized,
        "sealed": core.store is None,
    }
    if _is_loopback(request.remote):
        body["pid"] = os.getpid()
    if core.store is not None:
        status = core.store.status()
        body |= {
            "role": status.role.value,
            "term": status.term,
            "leader_id": status.leader_id,
            "last_index": status.last_index,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
        }
    return Response(data=body)


def _is_loopback(remote: str) -> bool:
    try:
        return ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False


async def ca(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The certificate of the cluster's authority: public, and worth what the reader knows of its fingerprint."""
    return Response(data={"certificate": core.lifecycle.ca_certificate.decode()})


async def nodes(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Every registered node, and whether it votes."""
    store = core.unsealed
    voters = {member.id for member in store.status().members}
    rows = [
        {
            "node_id": row.node_id,
            "region": row.region,
            "api_address": row.api_address,
            "cluster_address": row.cluster_address,
            "voter": row.node_id in voters,
            "version": row.software,
            "level": row.level,
        }
        for row in store.reads.nodes()
    ]
    return Response(data={"nodes": rows, "level": store.level})


async def join_token(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A new one-time join token."""
    ttl_s = duration_ns(request.data.get("ttl") or TICKET_TTL_DEFAULT, "ttl") // 10**9
    if not 1 <= ttl_s <= enrol.TICKET_TTL_MAX_S:
        raise InvalidRequest(f"ttl must lie between 1s and {enrol.TICKET_TTL_MAX_S}s")
    lifecycle = core.lifecycle
    token = await enrol.issue_ticket(
        core, enrol.NODE, ttl_s=ttl_s, ca_certificate=lifecycle.ca_certificate, pin=lifecycle.listener_pin
    )
    return Response(data={"token": token, "ttl": ttl_s})


async def join(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The cluster's side: a joining node spends its ticket here."""
    core.unsealed  # noqa: B018 - a sealed node cannot admit anybody
    try:
        wanted = msgspec.convert(request.data, enrol.JoinRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"malformed join request: {error}") from None
    if len(wanted.hosts) > HOSTS_MAX:
        raise InvalidRequest(f"malformed join request: more than {HOSTS_MAX} hosts")
    lifecycle = core.lifecycle
    admission = await enrol.admit(
        core,
        wanted,
        ca_certificate=lifecycle.ca_certificate,
        seal_file=seals.in_force(core.unsealed, lifecycle).as_dict(),
    )
    return Response(data=admission)


async def raft_join(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The joining node's side: enter the cluster that the token names."""
    if boolean(request.data.get("non_voter", False), "non_voter"):
        raise InvalidRequest(EVERYBODY_VOTES)
    token, address = request.data.get("join_token") or "", request.data.get("leader_api_addr") or ""
    if not token and address and "://" not in address:
        token, address = (
            address,
            "",
        )  # Vault's own tools have one argument; a token names its addresses itself
    if not isinstance(token, str) or not isinstance(address, str) or not token:
        raise InvalidRequest("join_token is required (operator join-token on a member makes one)")
    await core.lifecycle.join(leader_api_address=address, join_token=token)
    return Response(data={"joined": True})


async def _refuse_votes(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest(EVERYBODY_VOTES)


async def configuration(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Raft's configuration, as `operator raft list-peers` reads it."""
    on_disk(core)
    status = core.unsealed.status()
    servers = [
        {
            "node_id": member.id,
            "address": member.address,
            "leader": member.id == status.leader_id,
            "protocol_version": "3",
            "voter": True,
        }
        for member in status.members
    ]
    return Response(data={"config": {"index": 0, "servers": servers}})


async def remove_peer(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Take a node out of the cluster, for good: its vote first, then its registration."""
    on_disk(core)
    node_id = request.data.get("server_id")
    if not isinstance(node_id, str) or not node_id:
        raise InvalidRequest("server_id is required")
    try:
        await core.lifecycle.remove(node_id, REMOVE_TIMEOUT_S)
    except raft_errors.MembershipRefused as error:
        raise InvalidRequest(str(error)) from None
    except raft_errors.ConsensusError as error:
        raise NoQuorum(str(error)) from error
    return Response(status=NO_CONTENT)
