"""What the machine allows."""

import os
import resource

from node.diagnose.finding import Findings, ok, warn

DESCRIPTORS_MIN = 4096


def check() -> Findings:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = f"{'unlimited' if hard == resource.RLIM_INFINITY else hard} open files"
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS_MIN:
        yield warn("limits", message, f"each client is one: allow {DESCRIPTORS_MIN} (LimitNOFILE, ulimit -n)")
    else:
        yield ok("limits", message)
    if os.geteuid() == 0:
        yield warn("user", "this is root", "run the node as a user of its own: it needs no privilege")
    else:
        yield ok("user", "not root")
    if _swap():
        yield warn(
            "swap",
            "the machine has swap, where keys in memory may be written to",
            "swapoff, or MemorySwapMax=0",
        )
    else:
        yield ok("swap", "none")


def _swap() -> bool:
    try:
        with open("/proc/swaps", encoding="ascii") as file:
            return len(file.read().splitlines()) > 1
    except OSError:
        return False
