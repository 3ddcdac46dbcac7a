"""The `strongroom` command. Starting it must stay cheap: the commands are in `root`, each in a module that is loaded
when it is used, and nothing is imported before main() has said how.
"""

import gc
import os
import sys
import threading

YOUNG_OBJECTS_MAX = 100_000  # until garbage is looked for: most commands have ended before


def main() -> None:
    """The entry point of the distribution: does not return."""
    gc.set_threshold(YOUNG_OBJECTS_MAX)  # what is imported is no garbage, and looking for some takes time
    from node.cli.root import run

    code = run(sys.argv[1:])
    if threading.active_count() > 1:
        sys.exit(code)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # nothing is left open; to take the interpreter apart would cost a quarter of most commands' time
        os._exit(code)
