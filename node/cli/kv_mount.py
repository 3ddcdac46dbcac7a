"""Where a key of a KV engine lives: which part of the path is the mount, and of which version it is.

Both versions are used with the same commands, so each of them asks the server first (sys/internal/ui/mounts).
"""

import posixpath
from dataclasses import dataclass

import click

from node.cli.client import Client
from node.cli.flags import flag
from node.cli.generic import trimmed
from node.cli.output import RemoteError

mount_flag = flag("mount", help="Where the engine is mounted; the key is then below it.")


@dataclass(frozen=True, slots=True)
class Key:
    """A key in a KV engine. mount: with its slash, as the server knows it; "" if the server does not tell."""

    told: str
    mount: str
    below: str
    v2: bool

    def path(self, part: str) -> str:
        """The API path under `part` (data, metadata, delete, ...) in version 2, the plain path in version 1."""
        if not self.v2:
            return posixpath.join(self.mount, self.below).rstrip("/") if self.mount else self.told
        return posixpath.join(self.mount.rstrip("/"), part, self.below).rstrip("/")


def locate(client: Client, told: str, mount: str | None) -> Key:
    """Ask where a key belongs. Raises RemoteError."""
    path, within = trimmed(told), trimmed(mount or "")
    found_mount, version = _preflight(client, within or path)
    if within:
        return Key(path, f"{within}/", path, version == "2")
    found = trimmed(found_mount)
    while found and path != found and not path.startswith(f"{found}/"):
        found = found.partition("/")[2]  # what a namespace puts before the mount is not in the user's path
    return Key(path, f"{found}/" if found else "", path[len(found) :].strip("/"), version == "2")


def _preflight(client: Client, path: str) -> tuple[str, str]:
    """(mount, version) of what is mounted there; ("", "1") of a server that is too old to be asked."""
    where = f"sys/internal/ui/mounts/{path}"
    asking = client.live()
    answer = asking.send("GET", where)
    if answer.status == 404:
        return "", "1"
    body = asking.checked(answer, "GET", where)
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("path"), str):
        raise RemoteError(f"The server did not say what is mounted at {path}.")
    return data["path"], str((data.get("options") or {}).get("version", "1"))


def versions_of(told: tuple[str, ...]) -> list[str]:
    """-versions=1,2 -versions=3."""
    return [each.strip() for word in told for each in word.split(",") if each.strip()]


def only_version_2(key: Key, sentence: str, code: int) -> int | None:
    """The exit code of a command that version 1 does not know, after saying so; None where it does."""
    if key.v2:
        return None
    click.echo(sentence, err=True)
    return code
