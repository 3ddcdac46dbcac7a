"""Requests drawn at random, one after the other on one store: what one leaves behind the next ones meet.

    cd tests && ../.venv/bin/python -m support.drawn --steps 200000 --seed 7

Paths, names of fields and their kinds are those of the path tables; values are ordinary, extreme or wrong, and some are
what earlier answers held. An answer must be one that the tables declare or an error of ours: everything else is a bug
and ends this with 1. `make api-fuzz` asks over HTTP, and forgets between two requests.
"""

import argparse
import asyncio
import dataclasses
import json
import logging
import random
import re
import secrets
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from support.asking import Asker
from support.corefixture import ROOT_TOKEN, call, opened

from node.core.core import Core
from node.core.fields import Kind
from node.core.request import Operation
from node.core.router import Route
from node.errors import NodeError

STEPS = 100_000
SEED_BITS = 32
FOUND_MAX = 300  # values of answers that are used again
VALUE_CHARACTERS_MAX = 20_000
MOUNTS = {"pki": "pki", "pki2": "pki", "transit": "transit", "kv1": "kv"}
ENGINES = {"pki/": "pki", "pki2/": "pki", "transit/": "transit", "kv1/": "kv-v1", "secret/": "kv-v2"}
METHODS = ("approle", "userpass", "jwt", "cert", "kubernetes")
_ENDING = re.compile(  # what closes the store, or concerns more than it
    r"sys/(seal|unseal|init|step-down|join|storage|regions|audit|events|cluster|drill|metrics|generate-root|rekey"
    r"|rotate/root|rotate/recovery|loggers|host-info|snapshots|raw|replication)"
)
_KEPT = re.compile(
    r"(\w+_)?(id|accessor|token|serial_number|ciphertext|signature|hmac|backup|csr|certificate|nonce)"
)
_PARAMETER = re.compile(r"\{([a-z_]+)(?:\.\.\.)?\}")
_OF_FEW = {
    "kind": ("internal", "exported", "encryption-key", "hmac-key", "a"),
    "form": ("plaintext", "wrapped", "a"),
    "issuer": ("default", "a"),
}
_NAMES = (
    ("a",) * 30 + ("b",) * 20 + ("default", "root", "x-1", "A", "é", "a/b", " ", "*", "%", "0", "a" * 300)
)
_TEXTS: tuple[Any, ...] = (
    *("", "a", "b", "default", "root", "x", "é", "\0", "a,b", "*", "../x", "{{identity.entity.id}}", "a=b"),
    *("127.0.0.1", "10.0.0.0/8", "x" * 2000, "aGVsbG8=", "vault:v1:aGVsbG8=", 1, None, True, [], "sha2-256"),
    *(
        "rsa-2048",
        "ed25519",
        "aes256-gcm96",
        "ec",
        "batch",
        "service",
        "default-batch",
        "external",
        "internal",
    ),
    *("glob", 'path "x" { capabilities = ["read"] }', '{"a": 1}'),
)
_DURATIONS = ("1h", "0", "", None, "2h", "1s", "876000h", "1ns", 10, 2**31, 2**40, "1d", "-1", "x", 1.5)
_NUMBERS = (0, 1, 2, 3, -1, 10, 100, 2**31, 2**53, 2**62, 2**63, 10**25, "1", "x", 1.5, None, True, "")
_VALUES: dict[Kind, tuple[Any, ...]] = {
    Kind.DURATION: _DURATIONS,
    Kind.INTEGER: _NUMBERS,
    Kind.NUMBER: _NUMBERS,
    Kind.BOOLEAN: (True, False, True, False, "true", "x", None, 0, 2),
    Kind.STRINGS: ([], ["a"], ["a", "b"], "a", "a,b", ["127.0.0.1/32"], ["*"], ["default"], None, [1], ["root"],
                   ["x"] * 300, [["a"]], {"a": 1}),
    Kind.STRING_MAP: ({}, {"a": "b"}, {"a": 1}, "a=b", ["a=b"], None, {"": ""}, {"x" * 600: "y"}, "{}", {"é": "\0"}),
    Kind.OBJECT: ({}, {"a": "b"}, {"a": {"b": [1]}}, [], None, "x", {"cas": 0}, {"cas": 1}, {"version": "2"},
                  {"max_lease_ttl": "1h"}, {"default_lease_ttl": "876000h"}),
}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Drawn:
    """One run: `bugs` by what they are, with the request that showed each."""

    core: Core
    rng: random.Random
    answered: int = 0
    found: list[str] = dataclasses.field(default_factory=list)
    bugs: dict[str, str] = dataclasses.field(default_factory=dict)

    async def run(self, steps: int) -> None:
        routes = list(_routes(self.core))
        for _ in range(steps):
            await self._step(*self.rng.choice(routes))

    async def _step(self, pattern: str, route: Route) -> None:
        path = _PARAMETER.sub(lambda found: self._segment(found[1]), pattern)
        operation = self.rng.choice([*route.handlers])
        data, query = self._fields(route, operation, path)
        token: str | None = self.rng.choice((ROOT_TOKEN,) * 12 + (None,))
        if "revoke" in path:  # not the one that does everything
            token = self.rng.choice([each for each in self.found if each.startswith("s.")] or [None])
        try:
            response = await call(self.core, operation, path, data, token=token, query=query)
        except NodeError:
            return
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:100]}"
            self.bugs.setdefault(what, f"{operation} {path} {json.dumps(data)[:500]} {query}")
            return
        self.answered += 1
        self._remember(response.data)
        self._remember(response.auth)

    def _segment(self, name: str) -> str:
        if self.found and self.rng.random() < 0.15:
            return self.rng.choice(self.found)[:200]
        return self.rng.choice(_OF_FEW.get(name, _NAMES))

    def _fields(self, route: Route, operation: Operation, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        """The body, or the query of what has none."""
        given = {
            each.name: self._value(each.kind)
            for each in route.fields
            if self.rng.random() < (0.75 if each.required else 0.35)
        }
        if operation in (Operation.READ, Operation.LIST, Operation.SCAN, Operation.DELETE):
            return {}, {name: str(value)[:100] for name, value in given.items() if value is not None}
        if "pki" in path and given.get("key_type") in ("rsa", None):  # which would take most of the time
            given |= {"key_type": "ec", "key_bits": 256}
        if given.get("type") == "rsa-2048" or "password" in given:
            given = {name: value for name, value in given.items() if name not in ("type", "password")}
        return given, {}

    def _value(self, kind: Kind) -> Any:
        if kind is Kind.ANY:
            kind = self.rng.choice([*_VALUES])
        if kind in _VALUES:
            return self.rng.choice(_VALUES[kind])
        return self.rng.choice(self.found if self.found and self.rng.random() < 0.25 else _TEXTS)

    def _remember(self, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, str) and _KEPT.fullmatch(name) and 0 < len(item) <= VALUE_CHARACTERS_MAX:
                    self.found.append(item)
                self._remember(item)
        elif isinstance(value, list):
            for item in value[:5]:
                self._remember(item)
        self.found = [each for each in self.found[-FOUND_MAX:] if each != ROOT_TOKEN]


def _routes(core: Core) -> Iterator[tuple[str, Route]]:
    """Whole patterns; those of engines and methods twice, so that they come as often as the system's."""
    for route in core.system.routes:
        if not route.link and not _ENDING.match(route.pattern):
            yield route.pattern, route
    tables = [(at, core.engines[engine]) for at, engine in ENGINES.items()]
    tables += [(f"auth/{name}/", core.methods[name].table) for name in METHODS]
    for at, table in (*tables, *tables):
        for route in table.routes:
            yield at + route.pattern, route


async def drawn(home: Path, *, steps: int, seed: int) -> Drawn:
    """A run on a new store."""
    async with opened(home) as core:
        ask = Asker(core)
        for path, kind in MOUNTS.items():
            await ask.post(f"sys/mounts/{path}", type=kind)
        for kind in METHODS:
            await ask.post(f"sys/auth/{kind}", type=kind)
        await ask.post("pki/root/generate/internal", common_name="root", key_type="ec")
        run = Drawn(core, random.Random(seed))
        await run.run(steps)
        return run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m support.drawn", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="how many requests (default %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(SEED_BITS))
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as home:
        run = asyncio.run(drawn(Path(home), steps=options.steps, seed=options.seed))
    print(
        f"seed {options.seed}: {options.steps} requests, {run.answered} answered, {len(run.bugs)} bugs found"
    )
    for what, request in run.bugs.items():
        print(f"{what}\n    {request}")
    return 1 if run.bugs else 0


if __name__ == "__main__":
    sys.exit(main())
