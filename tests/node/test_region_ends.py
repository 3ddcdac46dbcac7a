"""A node's ends of the links between regions."""

import time
from pathlib import Path

import pytest
from support.corefixture import opened

from node.regions import authority, ends
from node.regions.ends import Ends
from node.view import write
from storage.command import RegionFound


async def test_whose_clock_was_set_gets_a_new_certificate_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a wrong clock has dated into the future would be refused everywhere until that day."""
    async with opened(tmp_path) as core:
        store, made = core.unsealed, []
        found = RegionFound(store.now_ns(), "eu", ("https://127.0.0.1:1",), ("127.0.0.1:1",))
        await write(store, found, authority.found(store))
        certify = authority.certify
        monkeypatch.setattr(authority, "certify", lambda *who: made.append(certify(*who)) or made[-1])
        own = Ends(store, core.settings, "cluster", listen=None)  # type: ignore[arg-type]
        try:
            for _ in range(3):
                await own.open()
            assert len(made) == 1
            real = time.time
            monkeypatch.setattr(ends.time, "time", lambda: real() - 3600)
            for _ in range(3):
                await own.open()
            assert len(made) == 2
        finally:
            await own.close()
