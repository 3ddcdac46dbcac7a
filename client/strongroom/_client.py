"""The client for threads; and what it has in common with the one for asyncio (_async_client.py)."""

import os
import ssl
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx

from strongroom._auth import Credentials
from strongroom._cache import Cache
from strongroom._consistency import Consistency
from strongroom._core import Core, Settings
from strongroom._drivers import SyncDriver
from strongroom._events import Event, Subscription
from strongroom._kv import KvV1Core, KvV2Core, Metadata, SecretVersion, VersionInfo
from strongroom._transport import CaFiles, context_of, environment, http_options

CLOSE_TIMEOUT_S = 5.0
DEFAULT_MOUNT = "secret"


_CLIENTS: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _forked() -> None:
    for each in tuple(_CLIENTS):
        each.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class ClientBase:
    """What both are made with. See Client."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        auth: Credentials | None = None,
        *,
        ca_file: CaFiles | None = None,
        ssl_context: ssl.SSLContext | None = None,
        namespace: str | None = None,
        consistency: Consistency | None = None,
        cache: Cache | None = None,
        discover: bool = False,
        timeout_s: float = 30.0,
        attempt_timeout_s: float = 10.0,
        attempts_max: int | None = None,
        transport: Any = None,
    ) -> None:
        self._core = Core(
            Settings(
                endpoints=[endpoints] if isinstance(endpoints, str) else list(endpoints),
                auth=auth,
                namespace=namespace,
                consistency=consistency,
                cache=cache,
                discover=discover,
                timeout_s=timeout_s,
                attempt_timeout_s=attempt_timeout_s,
                attempts_max=attempts_max,
            )
        )
        trusted = ssl_context if ssl_context is not None else context_of(ca_file)
        self._connect(http_options(trusted) | {"transport": transport})

    def _connect(self, options: dict[str, Any]) -> None:
        """Make what sends; `options` are httpx's."""
        raise NotImplementedError

    @classmethod
    def from_environment(cls, **more: Any) -> Self:
        """From STRONGROOM_*, VAULT_* or BAO_* variables and the stored token; `more` wins."""
        return cls(**(environment() | more))

    @property
    def endpoint(self) -> str | None:
        """The node that was asked last."""
        return self._core.endpoints.used

    def invalidate(self, path: str, mount: str = DEFAULT_MOUNT) -> None:
        """Forget what is cached of a secret: to be called by whoever learns that it has changed."""
        self._core.cache.invalidate(mount.strip("/"), path.strip("/"))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(each.url for each in self._core.endpoints.all)}>"


class Client(ClientBase):
    """A client for threads.

    endpoints: nodes, https://host:port; the nearest that works is asked, the others when it does not.
    auth: Token, UserPass or AppRole. The token is renewed in time, and had anew when it has ended.
    ca_file, ssl_context: whom to trust; by default the system's authorities. A region whose listeners have no
    certificates of yours has an authority of its own: ca_file takes several files.
    consistency: what reads may see unless a call says otherwise; by default FRESH.
    cache: how secrets that were read are kept; by default not at all.
    discover: ask the nodes for the endpoints of all regions (sys/regions; a policy must allow reading it).
    timeout_s: for a call with all that it takes, a log-in and every attempt (at most 200); attempt_timeout_s: for one
    attempt.
    attempts_max: how often each endpoint is asked for one call. By default a read asks each eight times at most, and a
    write goes on until timeout_s, so that it outlasts a change of the primary region.
    transport: an httpx transport, for tests.

    In a `with` block a thread looks after the token and the round trips, so that no call has to wait for that. Without
    it, and in a child of the process (os.fork), they are looked after when a call finds that it is time.
    Raises ConfigurationError. Every call raises StrongroomError; see the tree in strongroom._errors.
    """

    _driver: SyncDriver

    def _connect(self, options: dict[str, Any]) -> None:
        self._threads: list[threading.Thread] = []
        self._driver = SyncDriver(lambda: httpx.Client(**options))
        _CLIENTS.add(self)

    def forked(self) -> None:
        """In a child of this process, which shares no connection with it."""
        self._threads = []
        self._core.forked()
        self._driver.begin()

    def __enter__(self) -> Self:
        for name, program in self._core.in_the_background():
            thread = threading.Thread(target=self._driver.run, args=(program,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and the connections. The token stays valid."""
        self._driver.interrupt()  # wakes the threads
        for each in self._threads:
            each.join(CLOSE_TIMEOUT_S)
        self._driver.close()

    @property
    def kv(self) -> "KvV2":
        """The version 2 engine at secret/."""
        return self.kv_v2()

    def kv_v2(self, mount: str = DEFAULT_MOUNT) -> "KvV2":
        return KvV2(self._driver, KvV2Core(self._core, mount))

    def kv_v1(self, mount: str) -> "KvV1":
        return KvV1(self._driver, KvV1Core(self._core, mount))

    @property
    def events(self) -> "Events":
        """What happens to secrets."""
        return Events(self._driver, self._core)

    def read(
        self, path: str, *, query: Mapping[str, str] | None = None, consistency: Consistency | None = None
    ) -> Any:
        """GET of any path of the API: the answer's JSON. Values in it are not masked."""
        return self._driver.run(self._core.call("GET", path, query=query, consistency=consistency))

    def write(self, path: str, data: Mapping[str, Any] | None = None) -> Any:
        """PUT of any path of the API: the answer's JSON, or None."""
        return self._driver.run(self._core.call("PUT", path, dict(data) if data is not None else None))

    def delete(self, path: str) -> Any:
        """DELETE of any path of the API: the answer's JSON, or None."""
        return self._driver.run(self._core.call("DELETE", path))

    def log_out(self) -> None:
        """Revoke the token: nobody can use it any more, and neither can this client."""
        self._driver.run(self._core.log_out())


class KvV2:
    """A KV engine of version 2."""

    def __init__(self, driver: SyncDriver, core: KvV2Core) -> None:
        self._run, self._core = driver.run, core

    def get(
        self, path: str, *, version: int | None = None, consistency: Consistency | None = None
    ) -> SecretVersion:
        """A secret; its newest version if none is named. Raises NotFound, Deleted."""
        return self._run(self._core.get(path, version, consistency))

    def put(self, path: str, data: Mapping[str, Any], *, cas: int | None = None) -> VersionInfo:
        """Write a new version. cas: only if this is the current one (0: only if there is none). Raises CasMismatch."""
        return self._run(self._core.put(path, data, cas))

    def patch(self, path: str, changes: Mapping[str, Any], *, cas: int | None = None) -> VersionInfo:
        """Change some fields; None removes one. Raises NotFound, CasMismatch."""
        return self._run(self._core.patch(path, changes, cas))

    def delete(self, path: str, versions: Sequence[int] | None = None) -> None:
        """Delete the newest version, or those named; undelete brings them back."""
        self._run(self._core.delete(path, versions))

    def undelete(self, path: str, versions: Sequence[int]) -> None:
        """Bring deleted versions back."""
        self._run(self._core.undelete(path, versions))

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        """Remove the data of versions for good."""
        self._run(self._core.destroy(path, versions))

    def list(self, path: str = "", *, consistency: Consistency | None = None) -> list[str]:
        """The names in a folder; folders end with a slash."""
        return self._run(self._core.keys("metadata", path, consistency))

    def metadata(self, path: str, *, consistency: Consistency | None = None) -> Metadata:
        """What is known about a secret and its versions. Raises NotFound."""
        return self._run(self._core.metadata(path, consistency))

    def put_metadata(self, path: str, **settings: Any) -> None:
        """Set max_versions, cas_required, delete_version_after, custom_metadata."""
        self._run(self._core.put_metadata(path, settings))

    def delete_metadata(self, path: str) -> None:
        """Remove a secret with all its versions, for good."""
        self._run(self._core.delete_metadata(path))


class KvV1:
    """A KV engine of version 1."""

    def __init__(self, driver: SyncDriver, core: KvV1Core) -> None:
        self._run, self._core = driver.run, core

    def get(self, path: str, *, consistency: Consistency | None = None) -> SecretVersion:
        """A secret. Raises NotFound."""
        return self._run(self._core.get(path, consistency))

    def put(self, path: str, data: Mapping[str, Any]) -> None:
        """Write a secret; what was there is gone."""
        self._run(self._core.put(path, data))

    def delete(self, path: str) -> None:
        """Remove a secret for good."""
        self._run(self._core.delete(path))

    def list(self, path: str = "", *, consistency: Consistency | None = None) -> list[str]:
        """The names in a folder; folders end with a slash."""
        return self._run(self._core.keys("", path, consistency))


class Events:
    """Subscriptions to what happens to secrets."""

    def __init__(self, driver: SyncDriver, core: Core) -> None:
        self._driver, self._core = driver, core

    def subscribe(self, pattern: str = "kv*", *, expression: str = "", after: str = "") -> "EventStream":
        """Events of the types that a pattern names (kv-v2/data-*), as they happen.

        expression: a filter, as docs/events.md has it. after: the cursor of the last event that was heard; without it
        the stream begins when the first event is asked for.
        """
        return EventStream(self._driver, Subscription(self._core, pattern, expression, after))


class EventStream:
    """An iterator without end, which goes from node to node as they come and go; for one thread.

    Raises ApiError if the servers refuse the subscription. Ends when the client is closed.
    """

    def __init__(self, driver: SyncDriver, subscription: Subscription) -> None:
        self._driver, self._subscription = driver, subscription

    @property
    def cursor(self) -> str:
        """Where another subscription can go on."""
        return self._subscription.cursor

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._driver.run(self._subscription.next())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        self._driver.run(self._subscription.connect())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the server."""
        self._driver.run(self._subscription.end())
