"""Paths as arguments, completed by asking the server what there is. Whatever goes wrong completes nothing."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from node.cli.client import Client
from node.cli.output import LocalError, RemoteError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETION_TIMEOUT_S = 2.0
COMPLETIONS_MAX = 1000
FORMS = ("table", "json", "yaml")


class _ServerPath(click.ParamType[str]):
    """A path of the API, or (`keys`) a key in a KV engine, whose API path has another word in it."""

    name = "path"

    def __init__(self, *, keys: bool) -> None:
        self._keys = keys

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        from node.cli.remote import make_client

        try:
            client = replace(make_client(address=ctx.params.get("address")), timeout=COMPLETION_TIMEOUT_S)
            mount = ctx.params.get("mount") if self._keys else None
            found = self._below(client, incomplete, mount)
        except (LocalError, RemoteError):
            return []
        matching = [path for path in found if path.startswith(incomplete)]
        return [CompletionItem(path) for path in matching[:COMPLETIONS_MAX]]

    def _below(self, client: Client, incomplete: str, mount: str | None) -> list[str]:
        """Whole paths of what is in the folder that is being typed; the mounts, if there is none yet."""
        folder = incomplete[: incomplete.rfind("/") + 1]
        if not folder and not mount:
            mounts = (client.read("sys/internal/ui/mounts") or {}).get("data", {}).get("secret") or {}
            return [path for path in sorted(mounts) if not self._keys or mounts[path].get("type") == "kv"]
        if self._keys:
            from node.cli.kv_mount import locate

            where = locate(client, folder, mount).path("metadata")
        else:
            where = folder.rstrip("/")
        listed = (client.read(where, query={"list": "true"}) or {}).get("data") or {}
        return [f"{folder}{key}" for key in listed.get("keys") or ()]


API_PATH = _ServerPath(keys=False)
SECRET_KEY = _ServerPath(keys=True)


def complete_form(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The values of -format."""
    return [form for form in FORMS if form.startswith(incomplete)]
