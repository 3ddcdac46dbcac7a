"""Where the token of the last login is kept: a file that is shared with the other tools, or a program of the user's.

The program is named in ~/.vault (`token_helper = "/path"`), and is called with get, store or erase; a token to store
comes on its standard input, one that it has goes to its standard output.
"""

import os
import re
from pathlib import Path

from node.cli.environment import environment, home
from node.cli.output import LocalError

CONFIG_BYTES_MAX = 64 * 1024
TOKEN_BYTES_MAX = 64 * 1024
HELPER_TIMEOUT_S = 60
_HELPER = re.compile(r'^\s*token_helper\s*=\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)


def current_token() -> str | None:
    """The token of the environment, else the stored one. Raises LocalError when that cannot be read."""
    return (environment("TOKEN") or "").strip() or stored_token()


def stored_token() -> str | None:
    """What the last login left."""
    if helper := _helper():
        return _call(helper, "get").strip() or None
    try:
        return token_path().read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise LocalError(f"The token file {token_path()} cannot be read.") from e


def store_token(token: str) -> None:
    """Keep it for the next command, readable by this user only. Raises LocalError."""
    if helper := _helper():
        _call(helper, "store", token)
        return
    path = token_path()
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(token)
        fresh.replace(path)
    except OSError as e:
        fresh.unlink(missing_ok=True)
        raise LocalError(f"The token cannot be stored in {path}: {e.strerror}.") from e


def token_path() -> Path:
    """The file, where no program is named."""
    told = environment("TOKEN_PATH")
    return Path(told) if told else home() / ".vault-token"


def _helper() -> str | None:
    """The program that ~/.vault names."""
    told = environment("CONFIG_PATH")
    config = Path(told).expanduser() if told else home() / ".vault"
    try:
        with config.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX).decode("utf-8", "replace")
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as e:
        raise LocalError(f"{config} cannot be read: {e.strerror}.") from e
    found = _HELPER.search(text)
    return os.path.expanduser(found[1]) if found else None


def _call(helper: str, verb: str, token: str = "") -> str:
    import shlex  # here, because few have a helper and everybody would wait for these
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603 - the user's own configuration names it
            [*shlex.split(helper), verb],
            input=token,
            capture_output=True,
            text=True,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise LocalError(
            f"The token helper {helper} cannot be run: {getattr(e, 'strerror', None) or e}."
        ) from e
    if done.returncode:
        raise LocalError(f"The token helper {helper} failed at {verb}: {done.stderr.strip()[:500]}")
    return done.stdout[:TOKEN_BYTES_MAX]
