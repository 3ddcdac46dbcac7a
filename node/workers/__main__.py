"""`python -m node.workers PID DESCRIPTORS`: only a main process starts this, with its own PID."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """The kernel kills this process when the main one ends, however it ends: before anything else is loaded."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    from node.workers.worker import main

    sys.exit(main(sys.argv[2]))
