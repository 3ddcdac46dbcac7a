"""A node that hears of a successor of its region orders nothing from that moment on."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.corefixture import opened, order

from node.regions.links import Answer
from node.regions.stream import Standing
from node.regions.worker import RegionsWorker
from storage.rows import Region

US = Region("us", ("https://127.0.0.1:1",), ("127.0.0.1:1",), 0)


@pytest.mark.parametrize(("epoch", "accepts"), [(1, True), (2, False)])
async def test_an_answer_of_a_later_epoch_fences_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, accepts: bool
) -> None:
    """Not only when the region has given up its part, which takes its leader and a round of its log."""

    async def answers(*_: Any, **__: Any) -> Answer:
        told = Standing("us", "primary", epoch, "us" if epoch > 1 else "eu", 100)
        return Answer(200, {}, msgspec.json.encode(told))

    async with opened(tmp_path) as core:
        await order(core)
        store = core.unsealed
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        monkeypatch.setattr(worker, "ask", answers)
        store.cleared.set()
        await worker.hello(US)
        assert store.accepts is accepts
