"""Machines to write tests against: a log that applies as it is written, and logs drawn at random."""

import random
from pathlib import Path

from storage import command as c
from storage.machine import Machine
from storage.outcome import Done

KEY = b"k" * 32
T0 = 1_800_000_000 * 10**9
SECOND = 10**9
MINUTE = 60 * SECOND

Entry = tuple[bytes, bytes]  # request id, command


class Node:
    """One machine, and everything that it was told."""

    def __init__(self, path: Path | None = None, key: bytes = KEY) -> None:
        self.machine = Machine.open(path, key=key)
        self.log: list[Entry] = []
        self.salt = 0  # so that two nodes' own commands have request ids of their own

    @property
    def reads(self):
        return self.machine.reads

    def do(self, command, *, request_id: bytes | None = None):
        """Apply the next entry; returns its outcome."""
        data = command if isinstance(command, bytes) else c.encode(command)
        number = self.salt + self.machine.applied_index + 1
        return self.feed((request_id or number.to_bytes(16, "big"), data))

    def feed(self, entry: Entry):
        self.log.append(entry)
        return self.machine.apply(self.machine.applied_index + 1, *entry)

    def ok(self, command):
        """Apply what must succeed; returns the value of its outcome."""
        outcome = self.do(command)
        assert isinstance(outcome, Done), outcome
        return outcome.value


def mount(path: str = "kv/", mount_id: str = "m1", time_ns: int = T0) -> c.MountPut:
    return c.MountPut(time_ns, path, mount_id, f"kv_{mount_id}", "kv", 2, "", 0, 0)


def sealed(text: str = "value") -> c.Sealed:
    return c.Sealed(1, b"wrapped " + text.encode(), b"ciphertext " + text.encode())


def put(
    path: str, version: int, *, mount_id: str = "m1", cas: int | None = None, time_ns: int = T0
) -> c.KvPut:
    return c.KvPut(time_ns, mount_id, path, version, cas, sealed(f"{path} {version}"))


def token(
    name: str, parent: str | None = None, *, expires_ns: int = 0, num_uses: int = 0, time_ns: int = T0
) -> c.TokenPut:
    return c.TokenPut(
        time_ns=time_ns,
        digest=name.encode(),
        accessor=f"accessor-{name}",
        parent=parent.encode() if parent else None,
        policies=("default", "app"),
        path="auth/token/create",
        display_name="token",
        metadata={"owner": name},
        num_uses=num_uses,
        ttl_ns=0,
        explicit_max_ttl_ns=0,
        period_ns=0,
        renewable=True,
        expires_ns=expires_ns,
    )


def random_log(seed: int, length: int) -> list[Entry]:
    """A log with every kind of command in it, sensible or not, in step with a clock that mostly goes on."""
    rng = random.Random(seed)
    log: list[Entry] = [(rng.randbytes(16), c.encode(mount()))]
    now = T0
    while len(log) < length:
        now += rng.randrange(20 * SECOND)
        stamp = now - rng.choice([0, 0, 0, SECOND, 3 * MINUTE, 6 * MINUTE])
        if rng.random() < 0.05:
            log.append(rng.choice(log))  # a retry
        elif rng.random() < 0.02:
            log.append((rng.randbytes(16), rng.randbytes(20)))
        elif rng.random() < 0.1:
            parts = [_random_command(rng, stamp) for _ in range(rng.randrange(4))]
            log.append((rng.randbytes(16), c.encode(c.batch(stamp, *parts))))
        else:
            log.append((rng.randbytes(16), c.encode(_random_command(rng, stamp))))
    return log


def _random_command(rng: random.Random, now: int):
    path, mount_id = f"{rng.choice('ab')}/{rng.choice('xyz')}", rng.choice(["m1", "m1", "m2"])
    versions = tuple(rng.sample(range(8), rng.randrange(4)))
    name, other = (f"t{rng.randrange(12)}" for _ in range(2))
    value = c.Sealed(rng.randrange(1, 3), rng.randbytes(60), rng.randbytes(rng.randrange(1, 6000)))
    makers = [
        lambda: c.KvPut(now, mount_id, path, rng.randrange(1, 6), rng.choice([None, None, 0, 1, 2]), value),
        lambda: c.KvPut(now, mount_id, path, rng.randrange(1, 3), None, value),
        lambda: c.KvDelete(now, mount_id, path, versions),
        lambda: c.KvUndelete(now, mount_id, path, versions),
        lambda: c.KvDestroy(now, mount_id, path, versions),
        lambda: c.KvMetadataPut(
            now, mount_id, path, max_versions=rng.randrange(4), custom_metadata={"k": name}
        ),
        lambda: c.KvMetadataDelete(now, mount_id, path),
        lambda: c.KvConfigPut(now, mount_id, delete_version_after_ns=rng.choice([-1, 0, MINUTE])),
        lambda: mount(rng.choice(["kv/", "kv/in/", "other/"]), mount_id, now),
        lambda: c.MountTune(now, "kv/", description=name),
        lambda: c.MountMove(now, "other/", rng.choice(["third/", "kv/x/"])),
        lambda: c.MountRemove(now, rng.choice(["other/", "third/"])),
        lambda: c.PolicyPut(now, name, f"# {other}"),
        lambda: c.PolicyDelete(now, name),
        lambda: token(
            name, rng.choice([None, other]), expires_ns=now + MINUTE, num_uses=rng.randrange(3), time_ns=now
        ),
        lambda: c.TokenRenew(now, name.encode(), MINUTE, now + MINUTE),
        lambda: c.TokenRevoke(now, name.encode(), rng.random() < 0.5),
        lambda: c.TokenUse(now, name.encode()),
        lambda: c.TokensExpire(now, rng.randrange(3)),
        lambda: c.EntryPut(
            now,
            rng.choice([mount_id, "sys:x"]),
            path,
            value,
            rng.choice([0, now + MINUTE]),
            rng.choice([None, 0, rng.randrange(40)]),
            rng.choice([None, name.encode()]),
        ),
        lambda: c.EntryDelete(now, mount_id, path, rng.choice([None, 0])),
        lambda: c.EntriesDelete(now, rng.choice([mount_id, "sys:x"]), rng.choice(["", "a/"])),
        lambda: c.EntriesExpire(now, rng.randrange(3)),
        lambda: c.LeasePut(
            now,
            f"kv/{path}",
            mount_id,
            rng.choice([None, name.encode()]),
            MINUTE,
            now + MINUTE,
            now + 2 * MINUTE,
            True,
            value,
        ),
        lambda: c.LeaseRenew(now, f"kv/{path}", MINUTE, now + MINUTE),
        lambda: c.LeasesEnd(now, f"kv/{path[:2]}", rng.random() < 0.5, rng.randrange(3)),
        lambda: c.LeaseFailed(now, f"kv/{path}", rng.randrange(2), "down", now + SECOND, rng.random() < 0.3),
        lambda: c.LeasesRemove(now, (f"kv/{path}",)),
        lambda: c.ClusterInit(now, "cluster", name),
        lambda: c.KeyTermAdd(now, rng.randrange(1, 4), rng.randbytes(61)),
        lambda: c.SystemSecretPut(now, name, value),
        lambda: c.NodePut(now, name, "eu", "https://a", "b:1"),
        lambda: c.NodeRemove(now, name),
        lambda: c.RegionPut(now, name, (f"https://{name}",), ()),
        lambda: c.RegionRemove(now, name),
        lambda: c.JoinTokenPut(now, name.encode(), now + MINUTE),
        lambda: c.JoinTokenTake(now, name.encode(), other),
    ]
    return rng.choice(makers)()
