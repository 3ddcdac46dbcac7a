"""Links between nodes: frames arrive in order and late, until the link is lost, and perhaps not at all.

A cut stops new connections and lets frames pile up, as a firewall does; one that lasts ends the connection (both
ends learn it at different moments), as TCP gives up. A connection that is lost loses what is under way.
"""

import random
from collections import Counter
from collections.abc import Callable

from chaos.simulator.loop import Process, VirtualLoop
from consensus.transport import PeerHandler

Pair = frozenset[str]
RECONNECT_S = (0.01, 0.3)
GIVE_UP_S = 1.5  # of waiting for acknowledgements, before a connection is given up
SLOW_SHARE = 0.03
SLOW_S = 0.8


class Port:
    """A node's transport: the one that its engine is given."""

    def __init__(self, network: "Network", process: Process, handler: PeerHandler) -> None:
        self.network, self.process, self.handler = network, process, handler
        self.links: dict[str, int] = {}
        self.open = False

    async def start(self) -> None:
        self.open = True

    async def stop(self) -> None:
        self.open = False

    def set_peers(self, peers: dict[str, str]) -> None:
        """The world connects whom it likes; admission is transport.py's own test."""

    def send(self, peer_id: str, body: bytes) -> bool:
        if not self.open or peer_id not in self.links:
            return False
        self.network.carry(self.process.name, peer_id, self.links[peer_id], body)
        return True

    def flush(self) -> None:
        """Every frame is on its way already."""

    def backlog(self, peer_id: str) -> int:
        return 0

    def connected(self) -> set[str]:
        return set(self.links)


class Network:
    """All links. `watch(sender, receiver, body)` sees every frame that is sent."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        seen: Counter[str],
        watch: Callable[[str, str, bytes], None],
    ) -> None:
        self.loop, self.rng, self.seen, self.watch = loop, rng, seen, watch
        self.ports: dict[str, Port] = {}
        self.delay_s = rng.choice([0.0005, 0.003, 0.02])
        self.calm = False
        self.era = 0
        self._links: dict[Pair, int] = {}
        self._epoch = 0
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._held: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        self._arrival: dict[tuple[str, str, int], float] = {}

    def attach(self, process: Process, handler: PeerHandler) -> Port:
        """A node's place in the network; it connects to the others by and by."""
        port = self.ports[process.name] = Port(self, process, handler)
        for other in self.ports:
            if other != process.name:
                self.loop.outside(self.rng.uniform(0.001, 0.1), self.connect, process.name, other)
        return port

    def detach(self, name: str) -> None:
        """The node is gone."""
        port = self.ports.pop(name, None)
        if port is not None:
            port.open = False
        for pair in [pair for pair in self._links if name in pair]:
            self.lose(*sorted(pair))

    def connect(self, one: str, two: str) -> None:
        pair = frozenset((one, two))
        if pair in self._links or one not in self.ports or two not in self.ports:
            return
        if self._cuts[one, two] or self._cuts[two, one]:
            self.loop.outside(0.1, self.connect, one, two)
            return
        self._epoch += 1
        self._links[pair] = self._epoch
        for me, peer in ((one, two), (two, one)):
            self.loop.within(
                self.ports[me].process, self.rng.uniform(0, 0.01), self._up, me, peer, self._epoch
            )

    def _up(self, me: str, peer: str, epoch: int) -> None:
        port = self.ports.get(me)
        if port is not None and self._links.get(frozenset((me, peer))) == epoch and port.open:
            port.links[peer] = epoch
            port.handler.on_peer_up(peer)

    def lose(self, one: str, two: str) -> None:
        """The connection ends, and another is tried."""
        epoch = self._links.pop(frozenset((one, two)), None)
        if epoch is None:
            return
        self.seen["lost links"] += 1
        for me, peer in ((one, two), (two, one)):
            delay_s = self.rng.choice([0, 0.01, 0.3, 1.0]) * self.rng.random()
            if me in self.ports:
                self.loop.within(self.ports[me].process, delay_s, self._down, me, peer, epoch)
        self.loop.outside(self.rng.uniform(*RECONNECT_S), self.connect, one, two)

    def _down(self, me: str, peer: str, epoch: int) -> None:
        port = self.ports.get(me)
        if port is not None and port.links.get(peer) == epoch:
            del port.links[peer]
            port.handler.on_peer_down(peer)

    def cut(self, sender: str, receiver: str) -> None:
        """Nothing gets from `sender` to `receiver` until mend(), called as often, or mend_all()."""
        self._cuts[sender, receiver] += 1
        epoch = self._links.get(frozenset((sender, receiver)))
        self.loop.outside(GIVE_UP_S * self.rng.uniform(0.5, 1.5), self._give_up, sender, receiver, epoch)

    def _give_up(self, sender: str, receiver: str, epoch: int | None) -> None:
        if self._cuts[sender, receiver] and self._links.get(frozenset((sender, receiver))) == epoch:
            self.lose(sender, receiver)

    def mend(self, sender: str, receiver: str, era: int) -> None:
        """Undo one cut() of this era: one that mend_all() has undone already is not undone again."""
        if era != self.era:
            return
        self._cuts[sender, receiver] -= 1
        if not self._cuts[sender, receiver]:
            for epoch, body in self._held.pop((sender, receiver), []):
                self._send(sender, receiver, epoch, body)

    def mend_all(self) -> None:
        for pair, count in list(self._cuts.items()):
            for _ in range(count):
                self.mend(*pair, self.era)
        self.era += 1

    def carry(self, sender: str, receiver: str, epoch: int, body: bytes) -> None:
        self.watch(sender, receiver, body)
        if self._cuts[sender, receiver]:
            self._held.setdefault((sender, receiver), []).append((epoch, body))
        else:
            self._send(sender, receiver, epoch, body)

    def _send(self, sender: str, receiver: str, epoch: int, body: bytes) -> None:
        slow = not self.calm and self.rng.random() < SLOW_SHARE
        delay_s = self.rng.uniform(0, SLOW_S) if slow else self.rng.expovariate(1 / self.delay_s)
        key = (sender, receiver, epoch)
        at = self._arrival[key] = max(self._arrival.get(key, 0.0) + 1e-9, self.loop.now + delay_s)
        port = self.ports.get(receiver)
        if port is not None:
            self.loop.call_at(at, self._deliver, sender, receiver, epoch, body, context=port.process.context)

    def _deliver(self, sender: str, receiver: str, epoch: int, body: bytes) -> None:
        port = self.ports.get(receiver)
        alive = self._links.get(frozenset((sender, receiver))) == epoch
        if port is not None and alive and port.links.get(sender) == epoch:
            self.seen["frames"] += 1
            port.handler.on_message(sender, body)
