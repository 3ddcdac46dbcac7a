"""Runs a command with a terminal in front of it."""

import os
import pty
import subprocess

from support.patience import PATIENCE_S


def at_a_terminal(command: list[str], typed: str, *, prompt: bytes = b"hidden") -> str:
    """Run a command, type a line when it shows `prompt`, and return all that it showed."""
    controller, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        ) as child:
            shown = b""
            while prompt not in shown:
                shown += os.read(controller, 1024)
            os.write(controller, typed.encode() + b"\n")
            child.wait(PATIENCE_S)
            os.close(terminal)
            terminal = -1
            while chunk := _read(controller):
                shown += chunk
    finally:
        os.close(controller)
        if terminal != -1:
            os.close(terminal)
    return shown.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1024)
    except OSError:  # how Linux says that the other end of a terminal is closed
        return b""
