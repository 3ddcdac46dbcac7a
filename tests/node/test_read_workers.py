"""Read workers, with a real core behind real worker processes: what they answer is as good as what the core says.

Every connection here is accepted by a worker. What all answers have in common with the core's is checked by
test_lane_alike.py.
"""

import asyncio
import os
import resource
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.corefixture import ROOT_TOKEN, call, new_token, opened
from support.httpfixture import Answer, Site, Wire, request
from support.patience import PATIENCE_S, eventually
from support.readworkers import workers_of

from node.config import Listener
from node.core.core import Core
from node.core.request import Operation
from node.pki import Credentials, credentials, listener_names, new_ca
from node.workers import supervisor
from node.workers.supervisor import Workers
from node.workers.worker import audit_path

READER = 'path "secret/data/*" { capabilities = ["read"] }'
PATH = "/v1/secret/data/a"
WORKERS, READERS = 2, 6
WRITES = 200


@dataclass
class Served:
    core: Core
    site: Site
    workers: Workers

    def answered(self, status: int = 200) -> int:
        """By workers, without asking."""
        counted = self.workers.answered()
        return sum(sum(counts) for _, code, (counts, _) in counted if code == status)

    async def wires(self, count: int, token: str = ROOT_TOKEN) -> list[Wire]:
        return [await self.site.connect(token) for _ in range(count)]

    async def put(self, name: str, **data: Any) -> None:
        await call(self.core, Operation.UPDATE, f"secret/data/{name}", {"data": data})

    async def known(self, wire: Wire, path: str = PATH) -> None:
        """Read until the worker answers by itself."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                before = self.answered()
                assert (await wire.ask("GET", path)).status == 200
                if self.answered() > before:
                    return


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with (
        opened(tmp_path) as core,
        workers_of(core, count=WORKERS, token=ROOT_TOKEN) as (site, workers),
    ):
        yield Served(core, site, workers)


def number_of(answer: Answer) -> int:
    assert answer.status == 200, answer.body
    found: int = answer.json["data"]["data"]["n"]
    return found


async def test_what_is_acknowledged_is_seen_by_every_later_read(served: Served) -> None:
    """A register: readers at workers note what was acknowledged before they ask."""
    writer, *readers = await served.wires(1 + READERS)
    acknowledged, reads = 0, 0
    await served.put("a", n=0)

    async def read(wire: Wire) -> None:
        nonlocal reads
        while acknowledged < WRITES:
            floor = acknowledged
            assert number_of(await wire.ask("GET", PATH)) >= floor, "stale"
            reads += 1

    async def write() -> None:
        nonlocal acknowledged
        for number in range(1, WRITES + 1):
            answer = await writer.ask("POST", PATH, {"data": {"n": number}})
            assert answer.status == 200
            acknowledged = number
            if number % 5 == 1:  # long enough for workers to know it
                seen = reads
                await eventually(lambda seen=seen: reads >= seen + 4 * READERS, "reads")

    async with asyncio.TaskGroup() as group:
        for wire in readers:
            group.create_task(read(wire))
        group.create_task(write())
    assert served.answered() > WRITES, "the workers hardly answered: nothing was shown"


@pytest.mark.parametrize("change", ["revoked", "forbidden", "disabled"])
async def test_a_right_that_was_taken_is_gone_at_once(served: Served, change: str) -> None:
    await served.put("a", n=1)
    core = served.core
    for _ in range(5):
        token = await new_token(core, policy=READER)
        policy = (await lookup(core, token))["policies"][0]
        wires = await served.wires(READERS, token)
        for wire in wires:
            await served.known(wire)
        if change == "revoked":
            await call(core, Operation.UPDATE, "auth/token/revoke", {"token": token})
        elif change == "forbidden":
            none = {"policy": 'path "secret/data/*" { capabilities = ["deny"] }'}
            await call(core, Operation.UPDATE, f"sys/policies/acl/{policy}", none)
        else:
            await call(core, Operation.DELETE, f"sys/policies/acl/{policy}")
        answers = [await wire.ask("GET", PATH) for wire in wires]
        assert [answer.status for answer in answers] == [403] * READERS


async def lookup(core: Core, token: str) -> dict[str, Any]:
    found = await call(core, Operation.UPDATE, "auth/token/lookup", {"token": token})
    assert found.data is not None
    return dict(found.data)


async def test_a_token_or_a_value_that_has_ended_is_not_answered_from_memory(served: Served) -> None:
    core = served.core
    await served.put("a", n=1)
    await call(core, Operation.UPDATE, "secret/metadata/b", {"delete_version_after": "2s"})
    await served.put("b", n=1)
    token = await new_token(core, policy=READER, ttl="2s", explicit_max_ttl="2s")
    ends = time.time() + 2.0  # at the latest
    (short,), (long,) = await served.wires(1, token), await served.wires(1)

    async def ended(ask: Callable[[], Awaitable[Answer]], status: int) -> None:
        while True:
            began = time.time()
            answer = await ask()
            if answer.status != 200:
                assert answer.status == status
                return
            assert began <= ends + 0.05

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(
            ended(lambda: short.ask("GET", PATH), 403),
            ended(lambda: long.ask("GET", "/v1/secret/data/b"), 404),
        )


async def test_who_is_not_fresh_asks(served: Served) -> None:
    await served.put("a", n=1)
    (wire,) = await served.wires(1)
    await served.known(wire)
    assert served.workers._crew is not None
    served.workers._crew._board.show(0.0)
    before = served.answered()
    assert number_of(await wire.ask("GET", PATH)) == 1
    assert served.answered() == before


async def test_no_answer_without_its_record(tmp_path: Path) -> None:
    """The worker's audit file is a pipe that nobody empties."""
    async with opened(tmp_path) as core:
        pipe = audit_path(core.settings.audit_files[0], 1)
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            async with workers_of(core, count=1, token=ROOT_TOKEN) as (site, workers):
                served = Served(core, site, workers)
                await served.put("a", n=1)
                (wire,) = await served.wires(1)
                async with asyncio.timeout(PATIENCE_S):
                    while (answer := await wire.ask("GET", PATH)).status == 200:
                        pass
                assert answer.status == 500
                assert "audit" in answer.json["errors"][0]
                assert served.answered(500) == 1
                assert b"strongroom_audit_failures_total 1.0" in core.metrics.render()
                os.read(reader, 1 << 16)
                assert number_of(await wire.ask("GET", PATH)) == 1
        finally:
            os.close(reader)


async def test_a_sealed_store_takes_the_answers_from_its_workers(served: Served) -> None:
    await served.put("a", n=1)
    wires = await served.wires(READERS)
    for wire in wires:
        await served.known(wire)
    pids = served.workers.pids
    served.workers.close()
    await served.core.lifecycle.seal()
    for wire in wires:
        try:
            assert (await wire.ask("GET", PATH)).status == 503
        except (EOFError, ConnectionError):
            continue
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "workers gone")


async def test_nothing_that_a_client_says_in_an_odd_way_is_lost_on_its_way(served: Served) -> None:
    """Large bodies and pieces go to the main process as they come, and so does all that follows."""
    (wire,) = await served.wires(1)
    large = {"data": {"text": "x" * 300_000}}
    assert (await wire.ask("PUT", "/v1/secret/data/large", large)).status == 200
    answer = await wire.ask("GET", "/v1/secret/data/large")
    assert answer.json["data"]["data"] == large["data"]
    assert (await wire.ask("LIST", "/v1/secret/metadata/")).json["data"]["keys"] == ["large"]
    (other,) = await served.wires(1)
    answer = await other.ask("GET", "/v1/secret/data/large")
    assert answer.json["data"]["data"] == large["data"]
    assert served.core.metrics.clients() == 2, "each is counted once, whoever has it"


async def test_a_worker_that_is_killed_is_replaced_and_its_counts_go_on(served: Served) -> None:
    await served.put("a", n=1)
    (wire,) = await served.wires(1)
    await served.known(wire)
    before, killed = served.answered(), served.workers.pids
    for pid in killed:
        os.kill(pid, 9)
    assert await wire.closed()
    await eventually(
        lambda: len(served.workers.serving) == WORKERS and not set(killed) & set(served.workers.pids),
        "others in their place",
    )
    assert served.answered() == before
    (wire,) = await served.wires(1)
    await served.known(wire)


async def test_a_worker_that_hangs_is_replaced(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds connections, and the kernel gives it more."""
    monkeypatch.setattr(supervisor, "SILENT_LOOKS_MAX", 3)
    await served.put("a", n=1)
    wires = await served.wires(READERS)
    for wire in wires:
        await served.known(wire)
    hung = served.workers.pids
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    for wire in wires:
        assert await wire.closed()
    await eventually(
        lambda: len(served.workers.serving) == WORKERS and not set(hung) & set(served.workers.pids),
        "others in their place",
    )
    (wire,) = await served.wires(1)
    await served.known(wire)


async def test_who_cannot_be_taken_over_is_cut_off_and_later_ones_are_served(tmp_path: Path) -> None:
    """The main process has no descriptor free."""
    async with opened(tmp_path) as core, workers_of(core, token=ROOT_TOKEN) as (site, _):
        unlucky, lucky = await site.connect(ROOT_TOKEN), await site.connect(ROOT_TOKEN)
        listed = request("LIST", "/v1/sys/mounts", headers={"X-Vault-Token": ROOT_TOKEN})
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            await unlucky.send(listed[:20])
            assert await unlucky.closed()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await lucky.send(listed[:20])
        await lucky.send(listed[20:])
        assert (await lucky.answer()).status in (200, 404, 405)


async def test_a_worker_that_is_still_loading_hears_that_the_store_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would accept clients until it is killed."""
    codes: list[int] = []
    until_ended = supervisor._Crew._until_ended

    async def noted(*arguments: Any) -> int:
        codes.append(await until_ended(*arguments))
        return codes[-1]

    monkeypatch.setattr(supervisor._Crew, "_until_ended", noted)
    async with opened(tmp_path) as core, workers_of(core, serving=False) as (_, workers):
        crew = workers._crew
        assert crew is not None
        await eventually(lambda: crew._desks, "a worker that is loading")
        workers.close(PATIENCE_S)
        await workers.drain()
    assert codes == [0], "it was killed"


async def test_workers_show_a_certificate_that_was_renewed(tmp_path: Path) -> None:
    ca = new_ca("test")
    shown = [certificate_of(ca)]
    context = ssl.create_default_context(cadata=ca.certificate.decode())
    listener = Listener(host="127.0.0.1", port=1)
    async with (
        opened(tmp_path) as core,
        workers_of(core, count=WORKERS, listener=listener, own=lambda: shown[-1]) as (site, workers),
    ):
        site.tls = context
        before = workers.pids

        assert await certificate_shown(site) == ssl.PEM_cert_to_DER_cert(shown[0].certificate.decode())
        shown.append(certificate_of(ca))
        renewed = ssl.PEM_cert_to_DER_cert(shown[-1].certificate.decode())
        async with asyncio.timeout(PATIENCE_S):
            while {await certificate_shown(site) for _ in range(4 * WORKERS)} != {renewed}:
                pass
        assert workers.pids == before


async def test_a_worker_that_begins_with_the_renewed_certificate_does_not_keep_it_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first to see it."""
    ca = new_ca("test")
    shown, renewed = [certificate_of(ca)], certificate_of(ca)
    replacing: list[asyncio.Task[Any] | None] = []
    run = supervisor._Crew._run

    async def noted(crew: Any, number: int) -> int:
        replacing.append(asyncio.current_task())
        return await run(crew, number)

    def own() -> Credentials:
        if asyncio.current_task() in replacing:
            shown.append(renewed)
        return shown[-1]

    async with (
        opened(tmp_path) as core,
        workers_of(core, count=WORKERS, listener=Listener(host="127.0.0.1", port=1), own=own) as (
            site,
            workers,
        ),
    ):
        monkeypatch.setattr(supervisor._Crew, "_run", noted)
        site.tls = ssl.create_default_context(cadata=ca.certificate.decode())
        first = workers.pids
        os.kill(first[0], signal.SIGKILL)
        await eventually(lambda: len(workers.serving) == WORKERS and first[0] not in workers.pids, "another")
        expected = ssl.PEM_cert_to_DER_cert(renewed.certificate.decode())
        async with asyncio.timeout(PATIENCE_S):
            while {await certificate_shown(site) for _ in range(16 * WORKERS)} != {
                expected
            }:  # of each, surely
                pass


async def certificate_shown(site: Site) -> bytes:
    wire = await site.connect("")
    found: bytes = wire.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await wire.close()
    return found


def certificate_of(ca: Credentials) -> Credentials:
    return credentials(ca, listener_names(["127.0.0.1"]))


async def test_the_certificate_that_a_client_has_shown_gets_to_the_core(tmp_path: Path) -> None:
    """With a plain request, and with one that comes in pieces."""
    authority = Authority(tmp_path / "authority")
    server, ann = authority.issue("server", ["localhost"]), authority.issue("ann", ["ann"])
    listener = Listener(
        host="127.0.0.1", port=1, tls_cert_file=server, tls_key_file=server, tls_client_ca_file=authority.ca
    )
    shown, bare = (ssl.create_default_context(cafile=str(authority.ca)) for _ in range(2))
    for context in (shown, bare):
        context.check_hostname = False
    shown.load_cert_chain(ann)
    async with opened(tmp_path) as core, workers_of(core, listener=listener) as (site, _):
        await call(core, Operation.UPDATE, "sys/auth/cert", {"type": "cert"})
        role = {"certificate": authority.ca.read_text(), "token_policies": "p"}
        await call(core, Operation.UPDATE, "auth/cert/certs/web", role)
        login = request("POST", "/v1/auth/cert/login", {"name": "web"})
        statuses = []
        for context, pieces in ((shown, 1), (shown, 2), (bare, 1), (bare, 2)):
            site.tls = context
            wire = await site.connect("")
            for piece in (login,) if pieces == 1 else (login[:20], login[20:]):
                await wire.send(piece)
                await asyncio.sleep(0)
            statuses.append((await wire.answer()).status)
        assert statuses == [200, 200, 400, 400]
