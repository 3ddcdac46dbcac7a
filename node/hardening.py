"""What a process that holds keys asks of the kernel before it holds any."""

import ctypes
import os
import resource

PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dumps, no ptrace by other processes of this user, files private by default."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def raise_descriptor_limit() -> None:
    """As many descriptors as the hard limit allows: each client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
