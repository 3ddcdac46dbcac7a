"""The short form of `strongroom chaos fuzz`: bad frames at the Raft ports change nothing and end nothing."""

import random
from pathlib import Path

from chaos.fuzz import attack


async def test_bad_frames_change_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    result = await attack(tmp_path, frames=3000, seed=seed)
    assert not result.wrong
    assert sum(result.frames.values()) == 3000
    certified = result.frames["bad, certified"]
    assert result.refused["what it sent is no frame"] + result.refused["frame too large"] > certified // 2
    assert len(result.refused) < 20  # reasons are ours, never the peer's words
