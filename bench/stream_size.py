"""How many bytes a command costs on its way to another region, before and after compression.

`python -m bench.stream_size`: commands as the server makes them, in batches of one (a quiet primary) and as large as
batches get (a region that catches up). Values are encrypted before they get here, so they do not compress; what is
around them does. A second or two; no server is started.
"""

import argparse
import os
import random
import uuid

import msgspec

from node.regions.stream import PULL_BYTES_MAX, Batch, Standing, framed
from storage import command as c
from storage.keyring import KIND_KV, Context, Keyring, RootKey
from storage.rows import KeyTerm

T0 = 1_790_000_000_000_000_000
STANDING = Standing(
    "eu", "primary", 1, "eu", 1, endpoints=("https://eu-1.example.net:8200",), links=("eu-1:8203",)
)

Item = tuple[bytes, bytes]


def secrets(count: int, value_bytes: int, dice: random.Random) -> list[Item]:
    """Writes of KV version 2: JSON values of about that size."""
    keyring = Keyring(RootKey.generate(), str(uuid.uuid4()))
    keyring.load([KeyTerm(1, keyring.new_term(1), T0)])
    mount = str(uuid.uuid4())
    found = []
    for number in range(count):
        path = f"team-{dice.randrange(20)}/app-{number}/database"
        value = msgspec.json.encode({"password": dice.randbytes(value_bytes // 2).hex()})
        sealed = keyring.seal(Context(KIND_KV, mount, path, 1), value)
        found.append(c.KvPut(T0 + number, mount, path, 1, None, sealed))
    return [(os.urandom(16), c.encode(each)) for each in found]


def tokens(count: int, dice: random.Random) -> list[Item]:
    """Log-ins that give service tokens."""
    issuer = str(uuid.uuid4())
    return [
        (
            os.urandom(16),
            c.encode(
                c.TokenPut(
                    T0 + number,
                    os.urandom(32),
                    f"accessor-{dice.randbytes(12).hex()}",
                    None,
                    ("default", f"team-{dice.randrange(20)}"),
                    "auth/approle/login",
                    "approle",
                    {"role_name": f"app-{dice.randrange(100)}"},
                    0, 3600 * 10**9, 0, 0, True, T0 + number + 3600 * 10**9,
                    entity_id=str(uuid.uuid4()),
                    issuer=issuer,
                )
            ),
        )
        for number in range(count)
    ]  # fmt: skip


def policies(count: int, dice: random.Random) -> list[Item]:
    """Policies of ten rules each."""
    rule = 'path "secret/data/team-{}/app-{}/*" {{\n  capabilities = ["read", "list"]\n}}\n'
    return [
        (
            os.urandom(16),
            c.encode(
                c.PolicyPut(
                    T0 + number,
                    f"app-{number}",
                    "".join(rule.format(dice.randrange(20), dice.randrange(1000)) for _ in range(10)),
                )
            ),
        )
        for number in range(count)
    ]


def batches(items: list[Item], bytes_max: int) -> list[Batch]:
    """As a primary makes them: at least one command each."""
    made: list[list[Item]] = [[]]
    size = 0
    for item in items:
        size += len(item[1])
        if made[-1] and size > bytes_max:
            made.append([])
            size = len(item[1])
        made[-1].append(item)
    return [Batch("ok", STANDING, 0, tuple(each), 1) for each in made]


def line(what: str, items: list[Item], bytes_max: int) -> str:
    made = batches(items, bytes_max)
    raw = sum(len(msgspec.msgpack.encode(each)) for each in made)
    sent = sum(len(framed(each)) for each in made)
    many = len(items) / len(made)
    return f"{what:<28} {many:>10.0f} {raw / len(items):>12.0f} {sent / len(items):>12.0f} {sent / raw:>8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--commands", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    dice = random.Random(told.seed)
    print(f"{told.commands} commands of a kind, seed {told.seed}")
    print(f"{'commands':<28} {'in a batch':>10} {'bytes each':>12} {'sent each':>12} {'ratio':>8}")
    kinds = {
        "secrets of 100 bytes": secrets(told.commands, 100, dice),
        "secrets of 1000 bytes": secrets(told.commands, 1000, dice),
        "service tokens": tokens(told.commands, dice),
        "policies of ten rules": policies(told.commands, dice),
    }
    for what, items in kinds.items():
        for bytes_max in (1, PULL_BYTES_MAX):
            print(line(what, items, bytes_max))


if __name__ == "__main__":
    main()
