"""A server's first word: whether there is a store, before the rest is loaded; all else waits for it."""

import asyncio
from pathlib import Path

from support.corefixture import ROOT_TOKEN, opened
from support.httpfixture import Wire, serve

from node.config import dev_settings
from node.front import Front


async def _answered(
    wire: Wire, method: str, path: str, body: object = None
) -> "asyncio.Task[tuple[int, object]]":
    async def ask() -> tuple[int, object]:
        answer = await wire.ask(method, path, body)
        return answer.status, answer.json if answer.body else None

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    return task


async def test_one_question_is_answered_at_once_and_all_others_when_everything_is_there(
    tmp_path: Path,
) -> None:
    front = Front(dev_settings(data_dir=tmp_path), lambda: False)
    async with serve(front.core) as site, opened(tmp_path) as whole:
        waiting = [
            await _answered(await site.connect(token=ROOT_TOKEN), method, path, body)
            for method, path, body in (
                ("GET", "/v1/sys/health", None),
                ("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1}),
                ("POST", "/v1/secret/data/a", {"data": {"b": "c"}}),
                ("LIST", "/v1/sys/policies/acl", None),
                ("GET", "/v1/", None),
            )
        ]
        first = await (await site.connect()).ask("GET", "/v1/sys/init")
        assert (first.status, first.json) == (200, {"initialized": False})
        assert not any(task.done() for task in waiting)
        helped = await (await site.connect(token=ROOT_TOKEN)).ask("GET", "/v1/sys/mounts?help=1")
        assert helped.status == 503, "help is for tokens, and there is no store that would know one"

        front.complete(whole)
        whole.lifecycle.core = front.core  # type: ignore[attr-defined]
        answers = [await asyncio.wait_for(task, 30) for task in waiting]
        assert [status for status, _ in answers] == [200, 400, 200, 200, 404]
        assert answers[1][1] == {"errors": ["Vault is already initialized"]}
        written = answers[2][1]
        assert isinstance(written, dict)
        assert written["data"]["version"] == 1, "the envelope, as ever"
        later = await (await site.connect(token=ROOT_TOKEN)).ask("GET", "/v1/secret/data/a")
        assert later.json["data"]["data"] == {"b": "c"}
        first = await (await site.connect()).ask("GET", "/v1/sys/init")
        assert first.json == {"initialized": True}
