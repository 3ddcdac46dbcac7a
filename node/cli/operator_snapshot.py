"""`strongroom operator raft snapshot ...`: the store as a file."""

import contextlib
import http.client
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import click

from node.cli.client import Client
from node.cli.flags import Command, Group, flag, switch
from node.cli.http_connection import open_connection
from node.cli.http_exchange import Answer, Unreachable, connect, loaded, reason
from node.cli.output import LocalError, Output, RemoteError, pairs
from node.cli.prompt import secret_line
from node.cli.remote import remote

if TYPE_CHECKING:
    from node.backup.archive import Contents
    from node.config import Settings
    from storage.keyring import RootKey

PATH = "/v1/sys/storage/raft/snapshot"
PIECE_BYTES = 1 << 20
TIMEOUT_S = 660.0
ANSWER_BYTES_MAX = 64 << 10
FILE = click.Path(path_type=Path)


@click.group(cls=Group)
def snapshot() -> None:
    """Save the store to a file, restore it, and prove that it restores."""


@snapshot.command()
@click.argument("file", type=FILE)
@remote()
def save(client: Client, file: Path) -> None:
    """Write a snapshot to FILE, which is there only if it is whole."""
    if not file.parent.is_dir():
        raise LocalError(f"{file.parent} is not a directory.")
    part = tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.name + ".", delete=False)  # noqa: SIM115
    try:
        with part:
            download(client, part)
            part.flush()
            os.fsync(part.fileno())
        with _unpacked(Path(part.name)):
            pass
        Path(part.name).replace(file)
    except BaseException:
        Path(part.name).unlink(missing_ok=True)
        raise


@snapshot.command()
@click.argument("file", type=FILE)
@switch("force", help="A snapshot with another root key; takes the place of a store of one node.")
@remote()
def restore(client: Client, file: Path, force: bool) -> None:
    """Restore FILE on every node of the cluster."""
    path = PATH + ("-force" if force else "")
    try:
        opened = file.open("rb")
    except OSError as error:
        raise RemoteError(f"Error opening snapshot file: {error.strerror}: {file}") from error
    with (
        opened as body,
        _exchange(client, "POST", path, body, doing="Error installing the snapshot"),
    ):
        pass


def download(client: Client, file: IO[bytes]) -> None:
    """A snapshot of the store, as the server sends it. Raises RemoteError."""
    with _exchange(client, "GET", PATH, doing="Error taking the snapshot") as response:
        while piece := response.read(PIECE_BYTES):
            file.write(piece)


@contextlib.contextmanager
def _exchange(
    client: Client, method: str, path: str, body: BinaryIO | None = None, *, doing: str
) -> Iterator[http.client.HTTPResponse]:
    """One request whose body or answer is too large to hold. Raises RemoteError."""
    connection, target = open_connection(
        client.address,
        path,
        timeout=TIMEOUT_S,
        context=client.context,
        server_name=client.server_name,
        proxies=client.proxies,
    )
    headers = {"X-Vault-Request": "true", **client.headers} | (
        {"X-Vault-Token": client.token} if client.token else {}
    )
    if body is not None:
        headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
    try:
        connect(connection, client.address, TIMEOUT_S)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have refused, and said so
            connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        if response.status >= 300:
            raw = response.read(ANSWER_BYTES_MAX)
            refused = Answer(response.status, loaded(raw), {}, raw)
            client.checked(refused, method, path.removeprefix("/v1/"), doing=doing)
        yield response
    except Unreachable as e:
        raise RemoteError(f"{doing}: {e}.") from e
    except (OSError, http.client.HTTPException) as e:
        raise RemoteError(f"{doing}: {client.address} did not answer: {reason(e)}.") from e
    finally:
        connection.close()


# ---- without a server ----


@snapshot.command(cls=Command)
@click.argument("file", type=FILE)
@flag("format", click.Choice(["table", "json", "yaml"]), default="table", variable="form")
def inspect(file: Path, form: str) -> None:
    """Show what a snapshot says of itself, and whether it is whole. Needs no key."""
    with _unpacked(file) as contents:
        meta = contents.meta
        facts: dict[str, object] = {
            "id": meta.id,
            "taken": meta.taken,
            "index": meta.index,
            "term": meta.term,
            "cluster_id": meta.cluster_id,
            "cluster_name": meta.cluster_name,
            "node_id": meta.node_id,
            "members": [server.id for server in meta.configuration.servers],
            "seal": meta.seal_type,
            "software": meta.software,
            "state_bytes": meta.size,
        }
    _report(form, facts)


@snapshot.command(cls=Command)
@click.argument("file", type=FILE)
@flag(
    "config", FILE, multiple=True, variable="configs", help="A node's configuration: where the seal key is."
)
@flag("format", click.Choice(["table", "json", "yaml"]), default="table", variable="form")
def verify(file: Path, configs: tuple[Path, ...], form: str) -> None:
    """Restore FILE into a scratch node and compare digests: the proof that it restores.

    With the static seal the key file of -config opens it; with key shares they are asked for, or read from a pipe.
    """
    from node.backup import offline

    with _unpacked(file) as contents:
        try:
            proof = offline.verify(contents, _root(contents, configs))
        except offline.Failed as e:
            raise LocalError(f"{e}.") from e
    _report(
        form, {"verified": True, "index": proof.index, "kv_keys": proof.keys, "state_digest": proof.digest}
    )


@snapshot.command(cls=Command)
@click.argument("file", type=FILE)
@flag("config", FILE, multiple=True, variable="configs", help="The new node's configuration.")
def bootstrap(file: Path, configs: tuple[Path, ...]) -> None:
    """Begin a store from FILE in a node's empty data directory, while the node does not run.

    The snapshot's seal opens it; other nodes join it afterwards.
    """
    from node.backup import offline

    settings = settings_of(configs)
    with _unpacked(file) as contents:
        try:
            offline.bootstrap(contents, settings)
        except offline.Failed as e:
            raise LocalError(f"{e}.") from e
        threshold = contents.seal.threshold
    how = "opens by itself" if settings.seal.kind == "static" else f"opens with {threshold} key shares"
    click.echo(f"{settings.data_dir} holds the store of the snapshot. Start the node: it {how}.")


def _root(contents: "Contents", configs: tuple[Path, ...]) -> "RootKey":
    from node.backup import offline

    if contents.seal.type != "static":
        return offline.root_of_shares(contents.seal, iter(lambda: secret_line(None, "Unseal Key"), ""))
    key_file = settings_of(configs).seal.key_file
    if key_file is None:
        raise LocalError('The snapshot has the static seal, but the configuration has no seal "static".')
    return offline.root_of_key_file(contents.seal, key_file)


def settings_of(configs: tuple[Path, ...]) -> "Settings":
    from node.config import ConfigError, load

    try:
        return load(configs, environ=os.environ)
    except ConfigError as e:
        raise LocalError(str(e)) from e


@contextlib.contextmanager
def _unpacked(file: Path) -> Iterator["Contents"]:
    from node.backup import offline

    try:
        with offline.unpacked(file) as contents:
            yield contents
    except offline.Failed as e:
        raise LocalError(f"{e}.") from e


def _report(form: str, facts: dict[str, object]) -> None:
    rows = [
        (key.replace("_", " ").title(), ", ".join(value) if isinstance(value, list) else value)
        for key, value in facts.items()
    ]
    Output(form).show(facts, pairs(rows))
