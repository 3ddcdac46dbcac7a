"""How the members fare, as their leader sees it. Pure: statuses and times come in."""

from dataclasses import dataclass, field, replace

from consensus.api import Peer, Status
from node.autopilot.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """One node. `silent_s`: since the leader last heard of it; 0 for the leader itself."""

    id: str
    address: str
    leader: bool
    voter: bool
    alive: bool
    healthy: bool
    silent_s: float
    last_index: int
    stable_since_s: float  # seconds since 1970: since when its health has been what it is
    stable_s: float  # for so many seconds


@dataclass(slots=True)
class _Seen:
    healthy: bool
    since_s: float  # since 1970
    since: float  # monotonic


@dataclass(slots=True)
class Observer:
    """One leader's memory of its members; a new term begins a new one."""

    began: float = 0.0  # monotonic: when this node began to lead, as far as it has looked
    seen: dict[str, _Seen] = field(default_factory=dict)

    def look(self, status: Status, settings: Settings, *, now: float, now_s: float) -> list[Server]:
        """The servers, the leader first. `now` is monotonic, `now_s` seconds since 1970."""
        me = next((member for member in status.members if member.id == status.node_id), None)
        servers = []
        if me is not None:
            servers.append(
                Server(me.id, me.address, True, True, True, True, 0.0, status.last_index, 0.0, 0.0)
            )
        for voter, peers in ((True, status.peers), (False, status.learners)):
            servers += [self._peer(status, peer, settings, voter=voter, now=now) for peer in peers]
        self._forget(servers)
        return [self._stable(server, now, now_s) for server in servers]

    def _peer(self, status: Status, peer: Peer, settings: Settings, *, voter: bool, now: float) -> Server:
        silent_s = now - self.began if peer.last_contact_s is None else peer.last_contact_s
        behind = status.last_index - peer.match_index
        healthy = (
            peer.connected
            and silent_s <= settings.last_contact_threshold
            and behind <= settings.max_trailing_logs
        )
        alive = peer.connected and silent_s <= settings.dead_server_last_contact_threshold
        member = peer.member
        return Server(
            member.id, member.address, False, voter, alive, healthy, silent_s, peer.match_index, 0.0, 0.0
        )

    def _stable(self, server: Server, now: float, now_s: float) -> Server:
        seen = self.seen.get(server.id)
        if seen is None or seen.healthy != server.healthy:
            seen = self.seen[server.id] = _Seen(server.healthy, now_s, now)
        return replace(server, stable_since_s=seen.since_s, stable_s=now - seen.since)

    def _forget(self, servers: list[Server]) -> None:
        for gone in self.seen.keys() - {server.id for server in servers}:
            del self.seen[gone]


def failure_tolerance(servers: list[Server]) -> int:
    """How many more voters may fail before nothing can be written."""
    voters = [server for server in servers if server.voter]
    healthy = sum(server.healthy for server in voters)
    return max(0, healthy - (len(voters) // 2 + 1))


def proven(servers: list[Server], settings: Settings) -> set[str]:
    """The ids of those that may become voters: healthy for as long as is asked for."""
    return {
        server.id
        for server in servers
        if server.healthy and server.stable_s >= settings.server_stabilization_time
    }


def dead(servers: list[Server], settings: Settings) -> Server | None:
    """The voter that is to be removed now, if any: silent for too long, and not needed for anything.

    The voters never become fewer than min_quorum, and those that are left must hold a healthy majority.
    """
    voters = [server for server in servers if server.voter]
    if not settings.cleanup_dead_servers or len(voters) - 1 < settings.min_quorum:
        return None
    limit_s = settings.dead_server_last_contact_threshold
    silent = [server for server in voters if server.silent_s > limit_s]  # never the leader
    if not silent:
        return None
    victim = max(silent, key=lambda server: server.silent_s)
    left = [server for server in voters if server.id != victim.id]
    return victim if sum(server.healthy for server in left) > len(left) // 2 else None
