"""Whatever is asked after whatever else, the answer is one that the path tables declare, or an error of ours."""

from support.drawn import drawn

STEPS, SEED = 3_000, 7


async def test_requests_drawn_at_random_find_no_bug(tmp_path) -> None:
    """`python -m support.drawn` draws others, and for longer."""
    run = await drawn(tmp_path, steps=STEPS, seed=SEED)
    assert not run.bugs, f"seed {SEED}: {run.bugs}"
    assert run.answered > STEPS // 10
