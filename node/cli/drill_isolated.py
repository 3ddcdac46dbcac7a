"""`strongroom drill isolated`: a snapshot of the running store becomes a store of its own here, for a minute.

It is the proof that what would be needed after a disaster is there: the state, the seal's key, and software that opens
both. Nothing leaves the loopback interface, no value is printed, and the directory goes whatever happens.
"""

import hashlib
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from node.cli import local_layout, local_process
from node.cli.client import Client, needed
from node.cli.drill_probe import wait_for
from node.cli.drill_run import Run, conduct
from node.cli.flags import NATURAL, Command, flag
from node.cli.http_connection import Connections, tls_context
from node.cli.operator_snapshot import FILE, download, settings_of
from node.cli.output import LocalError, Output, RemoteError
from node.cli.prompt import secret_line
from node.cli.remote import Prints, remote

if TYPE_CHECKING:
    from node.backup.archive import Contents
    from storage.keyring import RootKey

SAMPLE_DEFAULT = 20
KEYS_LISTED_MAX = 10_000  # of a mount
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
OPEN, SEALED = 200, 503


@click.command(cls=Command)
@flag(
    "config", FILE, multiple=True, variable="configs", help="A node's configuration: where its seal's key is."
)
@flag("seal-key-file", FILE, variable="key_file", help="The seal's key file itself.")
@flag("sample", NATURAL, help=f"So many secrets are compared.  [default: {SAMPLE_DEFAULT}]")
@flag("directory", FILE, help="Where the scratch store lies.  [default: the system's temporary directory]")
@remote(Prints.FORMATS)
def isolated(
    client: Client,
    out: Output,
    configs: tuple[Path, ...],
    key_file: Path | None,
    sample: int | None,
    directory: Path | None,
) -> int:
    """Restore a snapshot of the store into a scratch node on this machine, open it, compare secrets, destroy it.

    With the static seal the key file opens it; with key shares they are asked for, or read from a pipe.
    """
    if configs and key_file is None:
        key_file = settings_of(configs).seal.key_file
    _check_seal(client, key_file)
    run = Run(client, out, "isolated", "", False, None)
    sampled = SAMPLE_DEFAULT if sample is None else sample
    return conduct(run, partial(_rehearse, directory=directory, key_file=key_file, sample=sampled))


def _check_seal(client: Client, key_file: Path | None) -> None:
    """What cannot work is no drill, and leaves no report. Raises LocalError, RemoteError."""
    told = needed(client.call("GET", "sys/seal-status"))
    if told.get("sealed"):
        raise RemoteError(f"{client.address} is sealed: a drill looks at a store that is open.")
    if told.get("type") != "static":
        return
    if key_file is None:
        raise LocalError("The store has the static seal: name its key file with -seal-key-file, or -config.")
    try:
        key_file.open("rb").close()
    except OSError as error:
        raise LocalError(f"{key_file} cannot be read: {error.strerror}.") from error


def _rehearse(run: Run, *, directory: Path | None, key_file: Path | None, sample: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="strongroom-drill-", dir=directory))
    run.undone(f"Deleting {place}", partial(shutil.rmtree, place))
    packed = place / "store.snap"
    with run.step("Taking a snapshot"), packed.open("wb") as file:
        download(run.client, file)
    began = time.monotonic()
    scratch = _restored(run, place, packed, key_file)
    run.undone("Stopping the scratch node", scratch.stop)
    with run.step("Starting a node on it, and opening it"):
        scratch.start()
    with run.step("Writing to it"):
        scratch.client(run.client).call("POST", "sys/drills/probe/isolated", {"number": 1})
    run.rto_ms = round((time.monotonic() - began) * 1000)
    with run.step(f"Comparing up to {sample} secrets"):
        _compare(run, scratch.client(run.client), sample)


def _restored(run: Run, place: Path, packed: Path, key_file: Path | None) -> "Scratch":
    """A data directory that holds the store of the snapshot. Raises LocalError."""
    from node.backup import offline

    try:
        with offline.unpacked(packed, place) as contents:
            shares: list[str] = []
            with run.step("Opening the snapshot's seal"):
                root = _root(contents, key_file, shares)
            with run.step("Restoring it, and comparing its digest with the one that was saved"):
                proof = offline.verify(contents, root)
            scratch = Scratch(place, key_file if contents.seal.type == "static" else None, shares)
            scratch.write_configuration()
            offline.bootstrap(contents, settings_of((scratch.config,)))
    except offline.Failed as error:
        raise LocalError(f"{error}.") from error
    run.note(f"state at index {proof.index}, {proof.keys} KV keys, digest {proof.digest}")
    return scratch


def _root(contents: "Contents", key_file: Path | None, shares: list[str]) -> "RootKey":
    """The root key; the shares that opened it are kept, to open the scratch node with. Raises LocalError, Failed."""
    from node.backup import offline

    if contents.seal.type != "static":
        return offline.root_of_shares(contents.seal, _asked(shares))
    assert key_file is not None, "_check_seal asked for it"
    return offline.root_of_key_file(contents.seal, key_file)


def _asked(shares: list[str]) -> Iterator[str]:
    while True:
        shares.append(secret_line(None, "Unseal Key"))
        yield shares[-1]


@dataclass
class Scratch:
    """A node of its own in `place`; it opens with a key file, or with shares."""

    place: Path
    key_file: Path | None
    shares: list[str]
    port: int = 0
    connections: Connections = field(default_factory=Connections)

    @property
    def config(self) -> Path:
        return self.place / "node.json"

    @property
    def _pid_file(self) -> Path:
        return self.place / "node.pid"

    def write_configuration(self) -> None:
        """Loopback only, TLS where the seal can protect its key, and no part in any region."""
        self.port, cluster_port = local_layout.free_ports(2)
        static = self.key_file is not None
        settings = {
            "node_id": "drill",
            "data_dir": str(self.place / "data"),
            "cluster_addr": f"127.0.0.1:{cluster_port}",
            "listener": [{"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": not static}}],
            "seal": [
                {"static": {"key_file": str(self.key_file.absolute())}} if self.key_file else {"shamir": {}}
            ],
            "audit": [{"file": {"path": str(self.place / "audit.jsonl")}}],
        }
        self.config.write_text(json.dumps(settings), encoding="utf-8")

    def client(self, live: Client) -> Client:
        """With the token that the live store knows: it is in the snapshot too."""
        scheme = "https" if self.key_file is not None else "http"
        trusted = self.place / "data" / "tls" / "ca.pem"
        context = tls_context(ca_cert=trusted) if scheme == "https" and trusted.exists() else None
        return replace(
            live,
            address=f"{scheme}://127.0.0.1:{self.port}",
            context=context,
            server_name=None,
            proxies=None,
            connections=self.connections,
        )

    def start(self) -> None:
        """Until it is open. Raises RemoteError with the end of its log."""
        local_process.spawn(self.config, log=self.place / "node.log", pid_file=self._pid_file, env={})
        try:
            wait_for(
                "the start of the scratch node", lambda: self._health() in (OPEN, SEALED), START_TIMEOUT_S
            )
            for share in self.shares:
                self._bare().call("PUT", "sys/unseal", {"key": share}, with_token=False)
            wait_for("its opening", lambda: self._health() == OPEN, START_TIMEOUT_S)
        except RemoteError as error:
            raise RemoteError(f"{error}\n{local_process.last_lines(self.place / 'node.log')}") from error

    def stop(self) -> None:
        """Idempotent; the process is gone afterwards."""
        self.connections.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = local_process.find(self.config, pid_file=self._pid_file)
            if pid is None:
                return
            local_process.send(pid, number)
            if local_process.wait_gone(self.config, pid_file=self._pid_file, timeout=STOP_TIMEOUT_S):
                return
        raise LocalError(f"The scratch node of {self.place} does not end.")

    def _bare(self) -> Client:
        return self.client(Client(""))

    def _health(self) -> int:
        if local_process.find(self.config, pid_file=self._pid_file) is None:
            raise RemoteError("The scratch node ended.")
        try:
            return self._bare().send("GET", "sys/health", with_token=False).status
        except RemoteError:
            return 0


def _compare(run: Run, scratch: Client, sample: int) -> None:
    """Secrets of the scratch store with the same versions of the live one, by digest."""
    places = list(_places(scratch))
    # Which secrets are looked at is no secret.
    chosen = random.sample(places, min(sample, len(places)))
    same, differ, gone = 0, [], 0
    for mount, path in chosen:
        there = _digest(scratch, mount, path, 0)
        if there is None:
            continue  # its newest version is deleted: there is nothing to compare
        version, digest = there
        here = _digest(run.client, mount, path, version)
        gone += here is None
        same += here is not None and here[1] == digest
        if here is not None and here[1] != digest:
            differ.append(f"{mount}{path} version {version}")
    run.note(f"{same} of {len(chosen)} sampled secrets (of {len(places)}) are the same in the live store")
    if gone:
        run.note(
            f"{gone} are not there any more: deleted since the snapshot, or not readable with this token"
        )
    run.rpo_writes = len(differ)
    if differ:
        raise RemoteError(f"These differ from the live store: {', '.join(differ[:10])}.")


def _places(client: Client) -> Iterator[tuple[str, str]]:
    """(mount, path) of every secret of the KV version 2 mounts."""
    mounts = needed(client.call("GET", "sys/mounts"), "data")
    for mount, told in mounts.items():
        if told.get("type") == "kv" and (told.get("options") or {}).get("version") == "2":
            query = {"scan": "true", "limit": KEYS_LISTED_MAX}
            found = client.read(f"{mount}metadata/", query=query)
            for path in needed(found, "data", "keys") if found else ():
                yield mount, path


def _digest(client: Client, mount: str, path: str, version: int) -> tuple[int, str] | None:
    """(version, SHA-256 of the value); None where there is none to read. Raises RemoteError."""
    answer = client.send("GET", f"{mount}data/{path}", query={"version": version} if version else None)
    if answer.status in (403, 404):
        return None
    data: dict[str, Any] = needed(client.checked(answer, "GET", f"{mount}data/{quote(path)}"), "data")
    value = json.dumps(data["data"], sort_keys=True, default=str).encode()
    return data["metadata"]["version"], hashlib.sha256(value).hexdigest()
