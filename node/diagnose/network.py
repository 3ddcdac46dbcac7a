"""Ports of this node, and whether the other nodes answer as who they are."""

import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from consensus.identity import peer_name
from node import pki
from node.config import Settings
from node.diagnose import keys
from node.diagnose.content import STATE_BYTES_MAX, state_copy
from node.diagnose.disk import in_use
from node.diagnose.finding import Finding, Findings, fail, ok, skipped, warn
from node.identity import Identity, Layout
from storage.errors import StorageError
from storage.rows import Node

TIMEOUT_S = 3.0
CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 30.0
HEAD_BYTES_MAX = 8192
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised, in order to connect to


def check(settings: Settings) -> Findings:
    running = in_use(settings.data_dir)
    for name, host, port in _ports(settings):
        yield _port(name, host, port, running=running)
    layout = Layout(settings.data_dir)
    identity = keys.peer_identity(settings, layout)
    if identity is None:
        yield skipped(
            "peers", "who the other nodes are is known only to an opened store with the static seal"
        )
        return
    others = [node for node in known_nodes(settings, layout) if node.node_id != settings.node_id]
    if not others:
        yield ok(
            "peers", "this node's file names no others; one that joined in the last seconds is not in it yet"
        )
    for node in others:
        yield _raft_link(identity, node)
        yield _api(layout, node)


def _ports(settings: Settings) -> list[tuple[str, str, int]]:
    found = [("port", listener.host, listener.port) for listener in settings.listeners]
    host, _, port = settings.cluster_listen.rpartition(":")
    return [*found, ("port", host.strip("[]"), int(port))]


def _port(name: str, host: str, port: int, *, running: bool) -> Finding:
    label = f"{name} {host}:{port}"
    if running:
        try:
            socket.create_connection(
                (host if host not in WILDCARDS else "localhost", port), TIMEOUT_S
            ).close()
            return ok(label, "the running node listens here")
        except OSError as error:
            return fail(label, f"the node runs, but nobody listens here: {error}", "look at the node's log")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return fail(
            label,
            f"cannot be bound: {error.strerror or error}",
            "another program has it, or the address is not this machine's",
        )
    return ok(label, "is free")


def known_nodes(settings: Settings, layout: Layout) -> list[Node]:
    """The registered nodes, from a copy of the database: a running node is not disturbed."""
    root = keys.root_key(settings, layout)
    if root is None or not layout.database.exists() or layout.database.stat().st_size > STATE_BYTES_MAX:
        return []
    try:
        with state_copy(layout, root) as machine:
            return machine.reads.nodes()
    except (StorageError, OSError):
        return []  # it was written to while it was copied


def _raft_link(identity: Identity, node: Node) -> Finding:
    name = f"peer {node.node_id} at {node.cluster_address}"
    host, _, port = node.cluster_address.rpartition(":")
    try:
        _, context = pki.peer_contexts(identity.ca_certificate, identity.peer)
        with (
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=peer_name(node.node_id, identity.cluster_id)),
        ):
            return ok(name, "answers, with the certificate of that node")
    except ssl.SSLError as error:
        return fail(
            name,
            f"something answers that is not that node: {error.reason}",
            "is this another cluster's node, or an old one?",
        )
    except OSError as error:
        return warn(
            name, f"does not answer: {error.strerror or error}", "is the node running, is the way to it open?"
        )


def _api(layout: Layout, node: Node) -> Finding:
    name = f"clock of {node.node_id}"
    url = urlsplit(node.api_address)
    try:
        context = (
            ssl.create_default_context(cafile=str(layout.ca_certificate)) if url.scheme == "https" else None
        )
        with socket.create_connection((url.hostname or "", url.port or 443), TIMEOUT_S) as plain:
            plain.settimeout(TIMEOUT_S)
            stream = context.wrap_socket(plain, server_hostname=url.hostname) if context else plain
            stream.sendall(
                f"GET /v1/sys/health?standbyok=true HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
            )
            head = stream.recv(HEAD_BYTES_MAX).decode("latin-1")
    except (OSError, ssl.SSLError) as error:
        return skipped(name, f"{node.api_address} does not answer: {getattr(error, 'reason', None) or error}")
    dates = [line[5:].strip() for line in head.split("\r\n") if line.lower().startswith("date:")]
    if not dates:
        return skipped(name, f"{node.api_address} does not tell its time")
    apart_s = abs(time.time() - parsedate_to_datetime(dates[0]).timestamp() - 0.5)
    message = f"its clock and this one are about {max(0.0, apart_s - 0.5):.0f} s apart"
    if apart_s > CLOCK_FAIL_S:
        return fail(name, message, "run NTP on both: expiry times move with a clock that is ahead")
    return warn(name, message, "run NTP on both") if apart_s > CLOCK_WARN_S else ok(name, message)
