"""A network of regions on loopback: doors at which nodes are reached, and ways between regions that can be made worse.

Everything between two regions takes one way there and one back, whichever side opened the connection. Who connects is
told by the address that the connection comes from: each region has one of its own in 127.0.0.0/8. A delay is no limit
of throughput: as on a long cable, much may be under way. What is not acted out: slow start, and retransmission that
backs off. A connection that outlives a cut which swallows goes on at once when the way is open again.
"""

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from node.wan.conditions import Bucket, Conditions, damaged
from node.wan.orders import Door

UNDER_WAY_BYTES_MAX = 8 * 1024 * 1024  # of one direction of a connection; then whoever sends has to wait
PIECE_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 1024
HANDSHAKE_S_MAX = 10.0  # through a cut that swallows; whoever asked has given up by then
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Way:
    """From one region to another: its conditions, and the connections that lean on it."""

    def __init__(self, chance: random.Random) -> None:
        self.conditions = Conditions()
        self.chance = chance
        self.bytes_carried = 0
        self.connections: set[_Connection] = set()
        self.passable = asyncio.Event()
        self.passable.set()
        self._bucket = Bucket()

    def change(self, conditions: Conditions) -> None:
        """From now on; what is under way arrives when it would have, unless the way is cut."""
        self.conditions = conditions
        if conditions.cut == "swallow":
            self.passable.clear()
        else:
            self.passable.set()
        if conditions.cut == "reset":
            for connection in self.connections:
                connection.reset()

    def departure(self, size: int) -> float:
        """When `size` bytes that come now have left, in the loop's time."""
        return self._bucket.departure(asyncio.get_running_loop().time(), size, self.conditions.bits_per_s)

    def delay_s(self) -> float:
        return self.conditions.delay_s + self.chance.uniform(0, self.conditions.jitter_s)


class Wan:
    """Regions by name with the address that their connections come from, doors, and the ways between all of them."""

    def __init__(self, regions: Mapping[str, str], doors: Iterable[Door], *, seed: int = 0) -> None:
        self._names = {address: name for name, address in regions.items()}
        self._doors = tuple(doors)
        chance = random.Random(seed)  # noqa: S311 - not a secret
        self.ways = {(here, there): Way(chance) for here in regions for there in regions if here != there}
        self._running: dict[asyncio.Task[None], _Connection] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Open all doors. Raises OSError."""
        for door in self._doors:
            host, port = split(door.listen)
            self._servers.append(await asyncio.start_server(self._accepter(door), host, port))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._running.values():
            connection.reset()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accepter(self, door: Door) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername") or ("",)  # None: it has gone already
            source = self._names.get(peer[0], "")
            there, back = self.ways.get((source, door.region)), self.ways.get((door.region, source))
            if there is None or back is None or len(self._running) >= CONNECTIONS_MAX:
                _reset(writer)
                return
            connection = _Connection(there, back, reader, writer)
            connection.task = asyncio.get_running_loop().create_task(connection.run(door.target))
            self._running[connection.task] = connection
            connection.task.add_done_callback(self._running.pop)

        return accept


class _Connection:
    """One connection through a door, from its first byte to its end."""

    task: asyncio.Task[None]

    def __init__(
        self, there: Way, back: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._there, self._back, self._reader = there, back, reader
        self._writers = [writer]

    def reset(self) -> None:
        self.task.cancel()

    async def run(self, target: str) -> None:
        """Until both sides have ended it, or it is reset: then both see that."""
        ways = (self._there, self._back)
        try:
            for way in ways:
                way.connections.add(self)
            if any(way.conditions.cut == "reset" for way in ways):
                return
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                for way in ways:  # a handshake takes a round trip
                    await asyncio.sleep(way.delay_s())
                    await way.passable.wait()
            host, port = split(target)
            reader, writer = await asyncio.open_connection(host, port)
            self._writers.append(writer)
            async with asyncio.TaskGroup() as group:
                for flow in (
                    _Flow(self._there, self._reader, writer),
                    _Flow(self._back, reader, self._writers[0]),
                ):
                    group.create_task(flow.take())
                    group.create_task(flow.hand_over())
            for each in self._writers:
                each.close()
        except (OSError, ExceptionGroup) as error:  # TimeoutError is an OSError
            _insist_on_network_errors(error)
        finally:
            for way in ways:
                way.connections.discard(self)
            for each in self._writers:
                if not each.is_closing():
                    _reset(each)


class _Flow:
    """One direction of a connection: pieces, each with the time at which it arrives; b"" is the end, None a reset.

    That travels like all else: nobody learns through a way that is cut that the other side has gone.
    """

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._way, self._reader, self._writer = way, reader, writer
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._bytes_under_way = 0
        self._arrives = float("-inf")
        self._changed = asyncio.Event()

    async def take(self) -> None:
        """Read until the end, whatever it is."""
        piece: bytes | None = b"-"
        while piece:
            while self._bytes_under_way >= UNDER_WAY_BYTES_MAX:
                self._changed.clear()
                await self._changed.wait()
            try:
                piece = await self._reader.read(PIECE_BYTES_MAX)
            except ConnectionError:
                piece = None
            departs = self._way.departure(len(piece or b""))
            await _until(departs)
            self._arrives = max(self._arrives, departs + self._way.delay_s())
            self._under_way.append((self._arrives, piece))
            self._bytes_under_way += len(piece or b"")
            self._changed.set()

    async def hand_over(self) -> None:
        """Write each piece when it arrives. Raises ConnectionResetError when a reset does."""
        while piece := await self._next():
            conditions, chance = self._way.conditions, self._way.chance
            try:
                self._writer.write(damaged(piece, conditions.flip_probability, chance))
                await self._writer.drain()
            except ConnectionError:
                return  # the other direction tells of it
            self._way.bytes_carried += len(piece)
            self._bytes_under_way -= len(piece)
            self._changed.set()
        if piece is None:
            raise ConnectionResetError
        if not self._writer.is_closing():
            self._writer.write_eof()

    async def _next(self) -> bytes | None:
        """What arrives next, when it does."""
        while not self._under_way:
            self._changed.clear()
            await self._changed.wait()
        arrives, piece = self._under_way.popleft()
        await _until(arrives)
        if not self._way.passable.is_set():
            await self._way.passable.wait()
            await asyncio.sleep(self._way.delay_s())
        return piece


def split(address: str) -> tuple[str, int]:
    """host:port. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{address} is not host:port")
    return host, int(port)


async def _until(when: float) -> None:
    pause = when - asyncio.get_running_loop().time()
    if pause > 0:
        await asyncio.sleep(pause)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side gets a reset, not an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


def _insist_on_network_errors(error: OSError | ExceptionGroup[Exception]) -> None:
    if isinstance(error, ExceptionGroup) and (other := error.split(OSError)[1]) is not None:
        raise other
