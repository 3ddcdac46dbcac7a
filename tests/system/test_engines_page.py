"""The commands of docs/engines.md, run as they stand there."""

import re
import subprocess
from pathlib import Path

from support.targets import BAO, Target

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def test_every_command_of_the_page_does_what_it_says(single: Target) -> None:
    """One shell for all, which stops at the first that fails; a "!" stands before what must fail."""
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    lines = [line for block in blocks for line in block.splitlines()]
    # `set -e` does not look at commands behind a "!"
    script = "\n".join(f"if {line[2:]}; then exit 1; fi" if line.startswith("! ") else line for line in lines)
    environment = single.environment()
    environment["PATH"] = f"{Path(BAO).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-eux", "-o", "pipefail", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
