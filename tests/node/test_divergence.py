"""What is set aside: every command from a position on, however many there are."""

from support.corefixture import opened

from node.regions import divergence
from node.view import View, write
from storage.command import RegionFound


async def test_many_commands_are_set_aside_and_listed_in_order_without_a_gap(tmp_path) -> None:
    async with opened(tmp_path) as core:
        store = core.unsealed
        await write(store, RegionFound(store.now_ns(), "eu", ("https://eu-1:8200",), ("eu-1:8203",)))
        view = View(store, "sys:test")
        first = store.position + 1
        count = divergence.STEP_COMMANDS_MAX + 10
        for number in range(count):
            await write(store, view.put(f"{number}", number))
        assert await divergence.set_aside(store, first, 1) == count
        assert await divergence.set_aside(store, first, 1) == count, "done again it changes nothing"
        assert store.position == first + count - 1, "what was set aside is this region's own matter"
        told, after = divergence.listed(store, limit=200)
        assert after == told[-1]["id"]
        rest, end = divergence.listed(store, after, limit=200)
        assert end == ""
        positions = [each["position"] for each in (*told, *rest)]
        assert positions == list(range(first, first + count))
