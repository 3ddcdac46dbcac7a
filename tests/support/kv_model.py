"""What Vault's KV version 2 engine does, as dictionaries: the oracle for the tables and statements."""

from dataclasses import dataclass, field


@dataclass
class Version:
    created: int
    deletion: int = 0
    destroyed: bool = False
    value: str | None = None


@dataclass
class Key:
    created: int
    updated: int
    current: int = 0
    oldest: int = 0
    max_versions: int = 0
    cas_required: bool = False
    lifetime: int = 0
    custom: dict[str, str] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)


@dataclass
class KvModel:
    """One mount. Methods answer with None, or with the reason of a refusal."""

    max_versions: int = 0
    cas_required: bool = False
    lifetime: int = 0
    keys: dict[str, Key] = field(default_factory=dict)

    def put(self, path, version, cas, value, now):
        key = self.keys.get(path) or Key(now, now)
        if (self.cas_required or key.cas_required) and cas is None:
            return "cas-required"
        if cas is not None and cas != key.current:
            return "cas-mismatch"
        if version != key.current + 1:
            return "version-raced"
        self.keys[path] = key
        key.current, key.updated = version, now
        lifetimes = sorted(x for x in (self.lifetime, key.lifetime) if x)
        deletion = 0 if self.lifetime < 0 or not lifetimes else now + lifetimes[0]
        key.versions[version] = Version(now, deletion, value=value)
        kept = max(key.max_versions, self.max_versions) or 10
        if key.current - key.oldest >= kept:
            last_gone = key.current - kept
            for number in range(key.oldest, last_gone + 1):
                key.versions.pop(number, None)
            key.oldest = last_gone + 1
        return None

    def _present(self, path, numbers):
        versions = self.keys[path].versions if path in self.keys else {}
        return [versions[n] for n in numbers if n in versions and not versions[n].destroyed]

    def delete(self, path, numbers, now):
        if not numbers and path in self.keys:
            numbers = [self.keys[path].current]
        for version in self._present(path, numbers):
            if not version.deletion or version.deletion > now:
                version.deletion = now

    def undelete(self, path, numbers):
        for version in self._present(path, numbers):
            version.deletion = 0

    def destroy(self, path, numbers):
        for version in self._present(path, numbers):
            version.destroyed, version.value = True, None

    def metadata(self, path, max_versions, cas_required, lifetime, custom, patch, now):
        if patch and path not in self.keys:
            return "no-such-key"
        key = self.keys.setdefault(path, Key(now, now))
        key.max_versions = key.max_versions if max_versions is None else max_versions
        key.cas_required = key.cas_required if cas_required is None else cas_required
        key.lifetime = key.lifetime if lifetime is None else lifetime
        if custom is not None:
            base = key.custom if patch else {}
            key.custom = {k: v for k, v in {**base, **custom}.items() if v is not None}
        return None

    def forget(self, path):
        self.keys.pop(path, None)

    def config(self, max_versions, cas_required, lifetime):
        self.max_versions = self.max_versions if max_versions is None else max_versions
        self.cas_required = self.cas_required if cas_required is None else cas_required
        self.lifetime = self.lifetime if lifetime is None else lifetime
