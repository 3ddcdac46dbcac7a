"""KV engines of both versions, as programs; and what they answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom._cache import Key
from strongroom._consistency import Consistency
from strongroom._core import Core
from strongroom._effects import Program
from strongroom._errors import NotFound, unexpected
from strongroom._requests import Patience
from strongroom._secret import Secret, SecretMap


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What is known about a version besides its data. Times are RFC 3339, in UTC; "" where there is none."""

    version: int
    created_time: str
    deletion_time: str = ""
    destroyed: bool = False
    custom_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A secret as it was read. info: None of version 1. stale: no node could be asked; this is `age_s` seconds old."""

    path: str
    data: SecretMap
    info: VersionInfo | None = None
    age_s: float = 0.0
    stale: bool = False

    def __getitem__(self, key: str) -> Secret:
        """The masked value of a field."""
        return self.data[key]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What version 2 keeps about a secret."""

    current_version: int
    oldest_version: int
    max_versions: int
    cas_required: bool
    delete_version_after: str
    created_time: str
    updated_time: str
    custom_metadata: Mapping[str, str]
    versions: Mapping[int, VersionInfo]


def version_info(found: Mapping[str, Any], version: int | None = None) -> VersionInfo:
    return VersionInfo(
        version=int(found.get("version", version or 0)),
        created_time=str(found.get("created_time") or ""),
        deletion_time=str(found.get("deletion_time") or ""),
        destroyed=bool(found.get("destroyed")),
        custom_metadata=dict(found.get("custom_metadata") or {}),
    )


def _data(body: Any, method: str, path: str, *names: str) -> Mapping[str, Any]:
    """What an answer says, with these members at least. Raises ApiError: it is none of the API."""
    found = body.get("data") if isinstance(body, dict) else None
    if not isinstance(found, dict) or not all(name in found for name in names):
        raise unexpected(200, method, path)
    return found


class KvCore:
    """One mount."""

    def __init__(self, core: Core, mount: str) -> None:
        self._core = core
        self.mount = mount.strip("/")

    def _at(self, part: str, path: str) -> str:
        return "/".join(piece for piece in (self.mount, part, path.strip("/")) if piece)

    def _index(self, name: str) -> Callable[[], str]:
        """How new an answer must be, by what is known when it is asked for."""
        return lambda: self._core.cache.index(self.mount, name)

    def keys(self, part: str, path: str, consistency: Consistency | None) -> Program[list[str]]:
        """The names in a folder; none if it does not exist."""
        query, at = {"list": "true"}, self._at(part, path)
        try:
            body = yield from self._core.call("GET", at, query=query, consistency=consistency)
        except NotFound as error:
            if error.errors:
                raise  # not an empty folder, but no engine
            return []
        return [str(key) for key in _data(body, "GET", at, "keys")["keys"]]


class KvV2Core(KvCore):
    """Version 2."""

    def get(self, path: str, version: int | None, consistency: Consistency | None) -> Program[SecretVersion]:
        name, at = path.strip("/"), self._at("data", path)
        query = {"version": str(version)} if version is not None else {}

        def fetch(patience: Patience) -> Program[Any]:
            body = yield from self._core.call(
                "GET", at, query=query, consistency=consistency, index=self._index(name), patience=patience
            )
            return _data(body, "GET", at, "data", "metadata")

        key = Key((self.mount, name), version, consistency)
        found = yield from self._core.cache.read(key, fetch, self._core.patience())
        data = SecretMap(found.value["data"])
        return SecretVersion(name, data, version_info(found.value["metadata"]), found.age_s, found.stale)

    def put(self, path: str, data: Mapping[str, Any], cas: int | None) -> Program[VersionInfo]:
        body = {"data": dict(data), "options": {} if cas is None else {"cas": cas}}
        return (yield from self._write("PUT", "data", path, body))

    def patch(self, path: str, changes: Mapping[str, Any], cas: int | None) -> Program[VersionInfo]:
        body = {"data": dict(changes), "options": {} if cas is None else {"cas": cas}}
        return (yield from self._write("PATCH", "data", path, body))

    def _write(self, method: str, part: str, path: str, body: Any) -> Program[VersionInfo]:
        answer = yield from self._changing(method, part, path, body)
        return version_info(_data(answer, method, self._at(part, path), "version"))

    def _changing(self, method: str, part: str, path: str, body: Any = None) -> Program[Any]:
        """A write; what is cached of the secret goes before it and after it, however it ends."""
        name = path.strip("/")
        self._core.cache.invalidate(self.mount, name)
        try:
            return (yield from self._core.call(method, self._at(part, name), body, repeatable=True))
        finally:
            self._core.cache.invalidate(self.mount, name)

    def delete(self, path: str, versions: Sequence[int] | None) -> Program[None]:
        if versions is None:
            yield from self._changing("DELETE", "data", path)
        else:
            yield from self._changing("PUT", "delete", path, {"versions": list(versions)})

    def undelete(self, path: str, versions: Sequence[int]) -> Program[None]:
        yield from self._changing("PUT", "undelete", path, {"versions": list(versions)})

    def destroy(self, path: str, versions: Sequence[int]) -> Program[None]:
        yield from self._changing("PUT", "destroy", path, {"versions": list(versions)})

    def metadata(self, path: str, consistency: Consistency | None) -> Program[Metadata]:
        at = self._at("metadata", path)
        body = yield from self._core.call("GET", at, consistency=consistency)
        found = _data(body, "GET", at, "versions", "current_version")
        versions = {
            int(number): version_info(each, int(number)) for number, each in found["versions"].items()
        }
        return Metadata(
            current_version=int(found["current_version"]),
            oldest_version=int(found["oldest_version"]),
            max_versions=int(found["max_versions"]),
            cas_required=bool(found["cas_required"]),
            delete_version_after=str(found["delete_version_after"]),
            created_time=str(found["created_time"]),
            updated_time=str(found["updated_time"]),
            custom_metadata=dict(found.get("custom_metadata") or {}),
            versions=dict(sorted(versions.items())),
        )

    def put_metadata(self, path: str, settings: Mapping[str, Any]) -> Program[None]:
        yield from self._changing("PUT", "metadata", path, dict(settings))

    def delete_metadata(self, path: str) -> Program[None]:
        yield from self._changing("DELETE", "metadata", path)


class KvV1Core(KvCore):
    """Version 1."""

    def get(self, path: str, consistency: Consistency | None) -> Program[SecretVersion]:
        name, at = path.strip("/"), self._at("", path)

        def fetch(patience: Patience) -> Program[Any]:
            body = yield from self._core.call(
                "GET", at, consistency=consistency, index=self._index(name), patience=patience
            )
            return _data(body, "GET", at)

        key = Key((self.mount, name), None, consistency)
        found = yield from self._core.cache.read(key, fetch, self._core.patience())
        return SecretVersion(name, SecretMap(found.value), None, found.age_s, found.stale)

    def put(self, path: str, data: Mapping[str, Any]) -> Program[None]:
        yield from self._changing("PUT", path, dict(data))

    def delete(self, path: str) -> Program[None]:
        yield from self._changing("DELETE", path)

    def _changing(self, method: str, path: str, body: Any = None) -> Program[None]:
        name = path.strip("/")
        self._core.cache.invalidate(self.mount, name)
        try:
            yield from self._core.call(method, self._at("", name), body, repeatable=True)
        finally:
            self._core.cache.invalidate(self.mount, name)
