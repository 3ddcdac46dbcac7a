"""Who answers what the core asks for: over httpx, with threads or with asyncio."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from strongroom._effects import (
    BUSY,
    CLOSED,
    Answer,
    CloseStream,
    Effect,
    Exclusive,
    Failure,
    OpenStream,
    Pause,
    Program,
    ReadStream,
    Send,
    SendAll,
    Stream,
)
from strongroom._secret import revealed
from strongroom._transport import CONNECT_TIMEOUT_S, CONNECTIONS_MAX

T = TypeVar("T")
ANSWER_BYTES_MAX = 64 * 1024 * 1024
AT_ONCE_MAX = 16
GRACE_S = 1.0
FOREVER = -1.0  # as threading.Lock wants to be told
OK = 200
_NOT_HTTP = (httpx.RemoteProtocolError, httpx.ReadError)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def _failure(error: httpx.HTTPError) -> Failure:
    """What an exception of httpx means. Its text names addresses, never headers or bodies."""
    if isinstance(error, httpx.PoolTimeout):
        return Failure(
            f"this client has {CONNECTIONS_MAX} requests and streams under way already", sent=False
        )
    told, cause = f"{type(error).__name__}: {error}".rstrip(": "), error.__cause__
    if isinstance(error, _NOT_HTTP) and error.request.url.scheme == "http":
        told += " (is it https://?)"
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return Failure(told, sent=not isinstance(error, _NOT_SENT), untrusted=cause is not None)


def _content(request: Send) -> bytes | None:
    return None if request.body is None else json.dumps(request.body, default=revealed).encode()


def _timeout(request: Send) -> httpx.Timeout:
    """Whom nobody answers at all is given up sooner than who thinks about the answer."""
    return httpx.Timeout(request.timeout_s, connect=min(request.timeout_s, CONNECT_TIMEOUT_S))


def _answer(response: httpx.Response, content: bytes) -> Answer:
    try:
        body = json.loads(content) if content.strip() else None
    except ValueError:
        body = None
    return Answer(response.status_code, response.headers, body)


class _Body:
    """The bytes of an answer as they come, within what one may have of bytes and of time."""

    def __init__(self, request: Send) -> None:
        self._method, self._bytes = request.method, bytearray()
        self._ends = time.monotonic() + request.timeout_s

    def refuses(self, piece: bytes) -> Failure | None:
        """Takes one more piece, or says why not."""
        self._bytes += piece
        if len(self._bytes) > ANSWER_BYTES_MAX:
            return Failure(f"the answer to {self._method} is longer than {ANSWER_BYTES_MAX} bytes", sent=True)
        if time.monotonic() > self._ends:
            return Failure(f"the answer to {self._method} came too slowly", sent=True)
        return None

    def answers(self, response: httpx.Response) -> Answer:
        """All of it is here."""
        return _answer(response, bytes(self._bytes))


def _stream_timeout(request: OpenStream) -> httpx.Timeout:
    connect_s = min(request.timeout_s, CONNECT_TIMEOUT_S)
    return httpx.Timeout(request.timeout_s, connect=connect_s, read=request.silence_s)


class _SyncStream(Stream):
    """An open answer, its lines, and how to wake whoever waits for one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines: Iterator[str] = response.iter_lines()

    def interrupt(self) -> None:
        connection = self.response.extensions.get("network_stream")
        raw = None if connection is None else connection.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)


class _AsyncStream(Stream):
    """An open answer and its lines."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines: AsyncIterator[str] = response.aiter_lines()
        self._reading: asyncio.Task[str | None] | None = None

    async def line(self) -> str | None:
        """The next one; None at the end. Raises what httpx raises.

        Who is cancelled while he waits leaves the read to whoever asks next: broken off, it would break the stream.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._next(), name="strongroom-line")
            self._reading.add_done_callback(_looked_at)
        reading = self._reading
        await asyncio.wait({reading})
        self._reading = None
        return None if reading.cancelled() else reading.result()

    async def _next(self) -> str | None:
        return await anext(self._lines, None)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self.response.aclose()


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """An error of what nobody waits for any more is nobody's."""
    if not task.cancelled():
        task.exception()


class SyncDriver:
    """Runs programs for any number of threads."""

    def __init__(self, connect: Callable[[], httpx.Client]) -> None:
        self._connect = connect
        self.closed = threading.Event()
        self.begin()

    def begin(self) -> None:
        """Without connections, and nobody waiting: also in a child of a process that has some, and whose threads may
        hold locks for ever there.
        """
        self._http = self._connect()
        self._step = threading.Lock()  # held while a program runs from one yield to the next
        self._locks: dict[Hashable, tuple[threading.Lock, list[None]]] = {}
        self._streams: set[_SyncStream] = set()

    def interrupt(self) -> None:
        """Wake whoever waits: the client is being closed."""
        self.closed.set()
        for stream in tuple(self._streams):
            stream.interrupt()

    def close(self) -> None:
        """End the connections."""
        self.interrupt()
        self._http.close()

    def run(self, program: Program[T]) -> T:
        """Its result. Raises what it raises."""
        outcome: Any = None
        raised: BaseException | None = None
        try:
            while True:
                with self._step:
                    effect = program.throw(raised) if raised is not None else program.send(outcome)
                outcome, raised = None, None
                try:
                    outcome = self._perform(effect)
                except Exception as error:  # noqa: BLE001 - what a nested program raises goes to the one that asked
                    raised = error
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            with self._step:
                program.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return self._send(effect)
            case SendAll():
                with ThreadPoolExecutor(min(len(effect.requests), AT_ONCE_MAX)) as pool:
                    return list(pool.map(self._timed, effect.requests))
            case Pause():
                return not self.closed.wait(effect.seconds)
            case Exclusive():
                return self._exclusive(effect)
            case OpenStream():
                return self._open(effect)
            case ReadStream(stream=_SyncStream() as stream):
                return self._read(stream)
            case CloseStream(stream=_SyncStream() as stream):
                return self._leave(stream)
        raise AssertionError("a stream of another driver")

    def _open(self, request: OpenStream) -> Answer | Failure | Stream:
        if self.closed.is_set():
            return CLOSED
        try:
            asked = self._http.build_request(
                "GET", request.url, headers=dict(request.headers), timeout=_stream_timeout(request)
            )
            response = self._http.send(asked, stream=True)
            if response.status_code != OK:
                return _answer(response, response.read())
        except httpx.HTTPError as error:
            return _failure(error)
        stream = _SyncStream(response)
        self._streams.add(stream)
        if self.closed.is_set():
            stream.interrupt()
        return stream

    def _read(self, stream: _SyncStream) -> list[str] | Failure:
        if stream not in self._streams:
            return Failure("the stream is the parent process's", sent=True)
        try:
            line = next(stream.lines, None)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            return Failure(type(error).__name__, sent=True)
        return Failure("the stream has ended", sent=True) if line is None else [line]

    def _leave(self, stream: _SyncStream) -> None:
        self._streams.discard(stream)
        stream.response.close()

    def _send(self, request: Send) -> Answer | Failure:
        if self.closed.is_set():
            return CLOSED
        body = _Body(request)
        try:
            with self._http.stream(
                request.method,
                request.url,
                headers=dict(request.headers),
                content=_content(request),
                timeout=_timeout(request),
            ) as response:
                for piece in response.iter_bytes():
                    if (refusal := body.refuses(piece)) is not None:
                        return refusal
                return body.answers(response)
        except httpx.HTTPError as error:
            return _failure(error)

    def _timed(self, request: Send) -> tuple[Answer | Failure, float]:
        start = time.perf_counter()
        return self._send(request), time.perf_counter() - start

    def _exclusive(self, effect: Exclusive) -> Any:
        with self._step:
            lock, waiting = self._locks.setdefault(effect.key, (threading.Lock(), []))
            waiting.append(None)
        try:
            if not lock.acquire(timeout=FOREVER if effect.wait_s is None else effect.wait_s):
                return BUSY
            try:
                return self.run(effect.program())
            finally:
                lock.release()
        finally:
            with self._step:
                waiting.pop()
                if not waiting:
                    del self._locks[effect.key]


class AsyncDriver:
    """Runs programs for any number of tasks of one loop: between two yields nothing else runs anyway."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._under_way: set[asyncio.Task[Any]] = set()
        self._locks: dict[Hashable, tuple[asyncio.Lock, list[None]]] = {}
        self.closed = False

    async def close(self) -> None:
        """End the connections."""
        self.closed = True
        for each in self._under_way:
            each.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._http.aclose()

    async def _whole(self, exchange: Coroutine[Any, Any, T]) -> T:
        """What it gives. Who is cancelled leaves it to end by itself within GRACE_S: one that is broken off while its
        connection is given back would keep that for ever (httpcore 1.0).
        """
        task = asyncio.create_task(exchange, name="strongroom-exchange")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_looked_at)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(GRACE_S, task.cancel)
            raise
        return task.result()

    async def run(self, program: Program[T]) -> T:
        """Its result. Raises what it raises."""
        outcome: Any = None
        raised: BaseException | None = None
        try:
            while True:
                effect = program.throw(raised) if raised is not None else program.send(outcome)
                outcome, raised = None, None
                try:
                    outcome = await self._perform(effect)
                except Exception as error:  # noqa: BLE001 - what a nested program raises goes to the one that asked
                    raised = error
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            program.close()

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return await self._whole(self._send(effect))
            case SendAll():
                return await asyncio.gather(*(self._timed(request) for request in effect.requests))
            case Pause():
                await asyncio.sleep(effect.seconds)
                return not self.closed
            case Exclusive():
                return await self._exclusive(effect)
            case OpenStream():
                return await self._open(effect)
            case ReadStream(stream=_AsyncStream() as stream):
                return await self._read(stream)
            case CloseStream(stream=_AsyncStream() as stream):
                return await self._whole(stream.close())
        raise AssertionError("a stream of another driver")

    async def _open(self, request: OpenStream) -> Answer | Failure | Stream:
        if self.closed:
            return CLOSED
        try:
            asked = self._http.build_request(
                "GET", request.url, headers=dict(request.headers), timeout=_stream_timeout(request)
            )
            response = await self._http.send(asked, stream=True)
            if response.status_code != OK:
                return _answer(response, await response.aread())
        except httpx.HTTPError as error:
            return _failure(error)
        return _AsyncStream(response)

    async def _read(self, stream: _AsyncStream) -> list[str] | Failure:
        try:
            line = await stream.line()
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            return Failure(type(error).__name__, sent=True)
        return Failure("the stream has ended", sent=True) if line is None else [line]

    async def _send(self, request: Send) -> Answer | Failure:
        if self.closed:
            return CLOSED
        body = _Body(request)
        try:
            async with self._http.stream(
                request.method,
                request.url,
                headers=dict(request.headers),
                content=_content(request),
                timeout=_timeout(request),
            ) as response:
                async for piece in response.aiter_bytes():
                    if (refusal := body.refuses(piece)) is not None:
                        return refusal
                return body.answers(response)
        except httpx.HTTPError as error:
            return _failure(error)

    async def _timed(self, request: Send) -> tuple[Answer | Failure, float]:
        start = time.perf_counter()
        return await self._whole(self._send(request)), time.perf_counter() - start

    async def _exclusive(self, effect: Exclusive) -> Any:
        lock, waiting = self._locks.setdefault(effect.key, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            try:
                async with asyncio.timeout(effect.wait_s):
                    await lock.acquire()
            except TimeoutError:
                return BUSY
            try:
                return await self.run(effect.program())
            finally:
                lock.release()
        finally:
            waiting.pop()
            if not waiting:
                del self._locks[effect.key]
