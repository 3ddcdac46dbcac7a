"""What operators set and watch is named in the documents."""

import dataclasses
import re
from pathlib import Path

import pytest
from support.httpfixture import dev_core, serve

from consensus.parts import Counters
from node.config_schema import FileSettings, Raft, Tcp

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("block", [FileSettings, Tcp, Raft])
def test_every_key_of_the_configuration_is_documented(block: type) -> None:
    document = (DOCS / "configuration.md").read_text()
    assert [key for key in block.__struct_fields__ if not re.search(rf"[`,. ]{key}\b", document)] == []


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        shown = (await wire.ask("GET", "/v1/sys/metrics?format=prometheus")).body.decode()
    told = re.findall(r"^# TYPE (strongroom_\w+)(?<!_created) ", shown, re.MULTILINE)
    assert "strongroom_raft_term" in told, "the store is open"
    documents = "".join(path.read_text() for path in DOCS.glob("*.md"))
    assert [name for name in told if not re.search(rf"`{name}[`{{]", documents)] == []
    counters = [f"_{field.name}_total`" for field in dataclasses.fields(Counters)]
    assert [name for name in counters if name not in documents] == []
