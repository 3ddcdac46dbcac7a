"""One worker process, started by supervisor.py with the descriptors that it is to use (__main__.py).

It ends with the main process: the kernel kills it then, and it leaves by itself when its channel closes.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from node import collector
from node.accepting import Acceptor
from node.api.answers import Answers
from node.api.head import AnswerHead
from node.api.plain import PlainRequest
from node.api.protocol import KEEPALIVE_S
from node.audit.log import AuditLog
from node.config import Listener, Settings
from node.hardening import harden, raise_descriptor_limit
from node.pki import Credentials, listener_context, load_credentials
from node.reload import CertificateError, ListenerFiles, ask_for_certificates
from node.telemetry import logs
from node.telemetry.logs import name_of, where
from node.workers import messages
from node.workers.board import Board, Cell
from node.workers.connection import Client, Way
from node.workers.descriptors import Descriptors
from node.workers.remembered import Remembered
from storage.secret import Secret

LOOK_EVERY_S = 5.0
PASS_WAIT_S = 10.0
PASS_POLL_S = 0.01

_log = structlog.get_logger("worker")


def audit_path(path: Path, number: int) -> Path:
    """Where worker `number` keeps its records: beside the main process's, audit.log beside audit-worker-1.log."""
    return path.with_name(f"{path.stem}-worker-{number}{path.suffix}")


class Worker:
    """Serves the clients that this process accepts; see connection.py and remembered.py."""

    def __init__(self, setup: messages.Setup, descriptors: Descriptors, channel: messages.Channel) -> None:
        self._settings = settings = decode_settings(setup.settings)
        self._channel, self._passing = channel, descriptors.passing
        self._board = Board(descriptors.board)
        self._cell = Cell(self._board.cell(setup.number - 1))
        self._audit = AuditLog([audit_path(path, setup.number) for path in settings.audit_files])
        self._files = ListenerFiles()
        self._automatic: list[ssl.SSLContext] = []
        own = Credentials(setup.certificate, Secret(setup.key))
        self._clients: dict[int, Client] = {}
        self._all: set[Client] = set()
        self._numbers = 0
        self._is_held = False  # the main process is behind with reading what is asked
        self._tasks: set[asyncio.Task[None]] = set()
        self._remembered: list[Remembered] = []
        self._acceptors: list[Acceptor] = []
        self.ended = asyncio.Event()
        for number, listener in enumerate(settings.listeners):
            context = self._context(listener, own)
            head = AnswerHead(lambda: (setup.cluster_id, self._board.position), tls=context is not None)
            answers = Answers(lambda: self._audit, head, self._cell)
            remembered = Remembered(
                self._board, answers, settings.value_cache_bytes_max // len(settings.listeners)
            )
            self._remembered.append(remembered)
            for listening in descriptors.listening[number]:
                door = _Door(self, number, settings.header_bytes_max)
                self._acceptors.append(Acceptor(listening, door, context, shared=True))

    def _context(self, listener: Listener, own: Credentials) -> ssl.SSLContext | None:
        if listener.tls_disable:
            return None
        if listener.tls_cert_file is not None:
            return self._files.context(listener)
        context = listener_context(own)
        ask_for_certificates(context, listener)
        self._automatic.append(context)
        return context

    def start(self) -> None:
        """Accept clients."""
        for acceptor in self._acceptors:
            acceptor.start()
        self._channel.send(messages.Ready())

    async def serve(self) -> None:
        """Until the main process says that it is over."""
        async with collector.tuned(self._activity):
            looked_at = asyncio.get_running_loop().time()
            while not self.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(messages.ALIVE_EVERY_S):
                        await self.ended.wait()
                self._channel.send(messages.Alive())
                if asyncio.get_running_loop().time() - looked_at >= LOOK_EVERY_S:
                    looked_at = asyncio.get_running_loop().time()
                    self._close_idle()

    def _activity(self) -> int:
        return self._cell.answered + sum(acceptor.accepted for acceptor in self._acceptors)

    def _close_idle(self) -> None:
        idle_since = asyncio.get_running_loop().time() - KEEPALIVE_S
        for client in list(self._all):
            if not client.busy and not client.is_passed_on and client.used_at < idle_since:
                client.close()

    # ---- connection.Worker ----

    @property
    def is_full(self) -> bool:
        return len(self._all) >= self._settings.connections_max

    def begin(self, client: Client, raw: PlainRequest) -> bool:
        return self._remembered[client.listener].begin(raw, client.answered)

    def hold(self, held: bool) -> None:
        """While the main process does not read what it is asked, nobody is listened to who could ask more."""
        self._is_held = held
        for client in self._all:
            client.wait(held)

    def came(self, client: Client) -> None:
        self._all.add(client)
        if self._is_held:
            client.wait(True)
        self._cell.connected(1)

    def went(self, client: Client) -> None:
        if client not in self._all:
            return
        self._all.discard(client)
        if not client.is_passed_on:
            self._cell.connected(-1)
        if self._clients.pop(client.number, None) is not None:
            self._channel.send(messages.Gone(client.number))

    def ask(self, client: Client, raw: PlainRequest, data: bytes) -> None:
        if not client.number:
            self._numbers += 1
            client.number = self._numbers
            self._clients[client.number] = client
            self._channel.send(messages.Met(client.number, client.listener, client.remote, client.chain))
        self._channel.send(messages.Ask(client.number, data))

    def hand_over(self, client: Client) -> None:
        self._cell.connected(-1)  # the main process counts it from now on
        task = asyncio.create_task(self._hand_over(client), name="way")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, client: Client) -> None:
        """Who cannot be handed over, for want of descriptors perhaps, is cut off: nobody would ever answer it."""
        try:
            client.handed_over(await self._way_of(client))
        except (OSError, TimeoutError) as error:
            _log.warning("a connection cannot be handed over", error=type(error).__name__)
            if client.transport is not None:
                client.transport.abort()

    async def _way_of(self, client: Client) -> Way:
        """Raises OSError or TimeoutError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ours.setblocking(False)
                told = messages.encode(messages.Passed(client.listener, client.remote, client.chain))
                async with asyncio.timeout(PASS_WAIT_S):
                    while not self._passed(told, theirs):  # noqa: ASYNC110 - the socket is hardly ever full
                        await asyncio.sleep(PASS_POLL_S)
            _, way = await asyncio.get_running_loop().create_unix_connection(lambda: Way(client), sock=ours)
        except BaseException:
            ours.close()
            raise
        return way

    def _passed(self, told: bytes, theirs: socket.socket) -> bool:
        try:
            socket.send_fds(self._passing, [told], [theirs.fileno()])
        except BlockingIOError:
            return False
        return True

    # ---- what the main process says ----

    def take(self, frame: Any) -> None:
        if isinstance(frame, messages.Told):
            self._answer(frame)
        elif isinstance(frame, messages.Certificate):
            for context in self._automatic:
                load_credentials(context, Credentials(frame.certificate, Secret(frame.key)))
        elif isinstance(frame, messages.HangUp):
            self._audit.reopen()
            self._files.reload()
        elif isinstance(frame, messages.Drain):
            self._tasks.add(asyncio.create_task(self._drain(frame.seconds), name="drain"))

    def _answer(self, told: messages.Told) -> None:
        client = self._clients.get(told.connection)
        if client is None:
            return
        if told.caller is not None and told.entry is not None and client.raw is not None:
            self._remembered[client.listener].learn(client.raw, told.caller, told.entry)
        client.answered(told.answer, told.close)

    async def _drain(self, seconds: float) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        for remembered in self._remembered:
            remembered.close()
        for client in list(self._all):
            client.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(client.is_unfinished for client in self._all):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(PASS_POLL_S)
        self.ended.set()


class _Door:
    """Makes the clients of one listener."""

    def __init__(self, worker: Worker, listener: int, header_bytes_max: int) -> None:
        self._worker, self._listener, self._header_bytes_max = worker, listener, header_bytes_max

    def __call__(self) -> Client:
        return Client(self._worker, self._listener, self._header_bytes_max)


def encode_settings(settings: Settings) -> bytes:
    return msgspec.msgpack.encode(settings, enc_hook=str)


def decode_settings(data: bytes) -> Settings:
    return msgspec.msgpack.decode(data, type=Settings, dec_hook=lambda kind, value: kind(value))


async def _run(descriptors: Descriptors) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_bug)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)  # the main process says what is to be done
    setup: asyncio.Future[messages.Setup] = loop.create_future()
    worker: Worker | None = None
    early: list[Any] = []  # what came with the setup, while this process was loading; all are orders, so few

    def take(frame: Any) -> None:
        if isinstance(frame, messages.Setup):
            setup.set_result(frame)
        elif worker is not None:
            worker.take(frame)
        else:
            early.append(frame)

    def hold(held: bool) -> None:
        if worker is not None:
            worker.hold(held)

    channel = messages.Channel(messages.ToWorker, take, lambda: os._exit(0), hold)
    await loop.create_unix_connection(lambda: channel, sock=descriptors.channel)
    first = await setup
    settings = decode_settings(first.settings)
    logs.configure(
        level=settings.log_level, form=settings.log_format, node_id=settings.node_id, region=settings.region
    )
    try:
        worker = Worker(first, descriptors, channel)
    except (OSError, CertificateError) as error:
        _log.critical(
            "read worker cannot run", worker=first.number, reason=f"{type(error).__name__}: {error}"
        )
        return 1
    _log.info("read worker serves", worker=first.number)
    worker.start()
    for frame in early:
        worker.take(frame)
    await worker.serve()
    return 0


def _on_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As in node/process.py; the main process starts another worker."""
    error = context.get("exception")
    if isinstance(error, OSError | ssl.SSLError):
        return
    _log.critical("unhandled", error=name_of(error), where=where(error) if error is not None else [])
    os._exit(1)


def main(descriptors: str) -> int:
    """`descriptors`: what Descriptors.parse() takes. Returns the exit code."""
    harden()
    raise_descriptor_limit()
    return uvloop.run(_run(Descriptors.parse(descriptors)))
