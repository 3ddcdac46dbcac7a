"""Which server, and how to speak to it: the flags that all commands share, and the environment behind them.

A flag wins over the environment, which wins over the default.
"""

import enum
import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from node.cli.client import Client
from node.cli.dry_run import DryRun
from node.cli.environment import environment, switched_on
from node.cli.flags import DURATION, PAIR, Flag, make_flag, make_switch, sharing
from node.cli.http_connection import Connections, Proxies, tls_context
from node.cli.http_exchange import TIMEOUT_S
from node.cli.output import FORMATS, LocalError, Output
from node.cli.paths import complete_form
from node.cli.token_helper import current_token
from node.cli.values import Duration, InvalidDuration, parse_duration

R = TypeVar("R")
ADDRESS = "https://127.0.0.1:8200"
RETRIES_MAX = 100
_SERVER = ("address", "agent_address", "ca_cert", "ca_path", "client_cert", "client_key", "tls_server_name",
           "tls_skip_verify", "namespace", "header", "wrap_ttl", "disable_redirects", "output_curl_string",
           "output_policy", "non_interactive")  # fmt: skip
_IGNORED = ("mfa", "policy_override", "unlock_key")


class Prints(enum.Enum):
    """What a command's answer can be turned into."""

    SENTENCE = enum.auto()  # one form only
    FORMATS = enum.auto()  # -format
    FIELDS = enum.auto()  # -format and -field
    RAW = enum.auto()  # the same, and -format=raw: the bytes of the answer


def remote(prints: Prints = Prints.SENTENCE) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorates a command that speaks to a server: passes a Client, and an Output if it prints in forms."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @sharing(functools.partial(_flags, prints))
        @functools.wraps(command)
        def connected(*args: Any, **kwargs: Any) -> R:
            said = {name: kwargs.pop(name) for name in _SERVER}
            for name in _IGNORED:
                kwargs.pop(name)
            output = _output(prints, kwargs)
            connections = Connections()
            client = replace(make_client(**said), connections=connections)
            try:
                return command(client, *output, *args, **kwargs)
            finally:
                connections.close()

        return connected

    return decorate


def printing(command: Callable[..., R]) -> Callable[..., R]:
    """Decorates a command that speaks to no server: passes an Output."""

    @sharing(lambda: [_format_flag()])
    @functools.wraps(command)
    def formatted(*args: Any, **kwargs: Any) -> R:
        return command(*_output(Prints.FORMATS, kwargs), *args, **kwargs)

    return formatted


def _output(prints: Prints, kwargs: dict[str, Any]) -> tuple[Output, ...]:
    if prints is Prints.SENTENCE:
        return ()
    form = (kwargs.pop("format") or environment("FORMAT") or "table").lower()
    form = "yaml" if form == "yml" else form
    if form not in FORMATS:
        raise LocalError(f"Invalid output format: {form}")
    if form == "raw" and prints is not Prints.RAW:
        raise LocalError("This command does not support the -format=raw option.")
    return (Output(form, kwargs.pop("field", None) or None),)


def _format_flag() -> Flag:
    return make_flag("format", help="table, json or yaml.  [STRONGROOM_FORMAT]", shell_complete=complete_form)


@functools.cache
def _server_flags() -> tuple[Flag, ...]:
    return (
        make_flag("address", help=f"The server.  [STRONGROOM_ADDR; default: {ADDRESS}]"),
        make_flag("agent-address", hidden=True),
        make_flag("ca-cert", help="PEM file of the CA to trust.  [STRONGROOM_CACERT]"),
        make_flag("ca-path", help="Directory of such files.  [STRONGROOM_CAPATH]"),
        make_flag("client-cert", help="PEM certificate to show.  [STRONGROOM_CLIENT_CERT]"),
        make_flag("client-key", help="Its key.  [STRONGROOM_CLIENT_KEY]"),
        make_flag(
            "tls-server-name", help="The name in the server's certificate.  [STRONGROOM_TLS_SERVER_NAME]"
        ),
        make_switch(
            "tls-skip-verify", help="Trust any certificate: for tests only.  [STRONGROOM_SKIP_VERIFY]"
        ),
        make_flag(
            "namespace",
            aliases=["ns"],
            help="Which namespace; this server has none but the root.  [STRONGROOM_NAMESPACE]",
        ),
        make_flag("header", PAIR, multiple=True, help="A header to send; repeatable."),
        make_flag("wrap-ttl", DURATION, help="Wrap the answer in a one-time token.  [STRONGROOM_WRAP_TTL]"),
        make_switch("disable-redirects", help="Follow no redirect.  [STRONGROOM_DISABLE_REDIRECTS]"),
        make_switch("output-curl-string", help="Show the request as a curl command instead."),
        make_switch("output-policy", help="Show the policy that the request needs instead."),
        make_switch("non-interactive", help="Ask nothing at the terminal."),
        make_flag("mfa", multiple=True, hidden=True),
        make_switch("policy-override", hidden=True),
        make_flag("unlock-key", hidden=True),
    )


def _flags(prints: Prints) -> tuple[Flag, ...]:
    flags = _server_flags()
    if prints is not Prints.SENTENCE:
        flags += (_format_flag(),)
    if prints in (Prints.FIELDS, Prints.RAW):
        flags += (make_flag("field", help="Print this field only, bare."),)
    return flags


def make_client(
    *,
    address: str | None = None,
    agent_address: str | None = None,
    ca_cert: str | None = None,
    ca_path: str | None = None,
    client_cert: str | None = None,
    client_key: str | None = None,
    tls_server_name: str | None = None,
    tls_skip_verify: bool = False,
    namespace: str | None = None,
    header: tuple[tuple[str, str], ...] = (),
    wrap_ttl: Duration | None = None,
    disable_redirects: bool = False,
    output_curl_string: bool = False,
    output_policy: bool = False,
    non_interactive: bool = False,
) -> Client:
    """Flags first, then the environment. Raises LocalError."""
    agent = agent_address or environment("AGENT_ADDR")
    target = _address(agent or address or environment("ADDR") or ADDRESS)
    context = None
    if target.startswith("https:"):
        context = tls_context(
            ca_cert=_path(ca_cert or environment("CACERT")),
            ca_path=_path(ca_path or environment("CAPATH")),
            client_cert=client_cert or environment("CLIENT_CERT"),
            client_key=client_key or environment("CLIENT_KEY"),
            skip_verify=tls_skip_verify or switched_on("SKIP_VERIFY"),
        )
    within = (namespace or environment("NAMESPACE") or "").strip("/")
    return Client(
        target,
        context=context,
        token=current_token(),
        namespace=f"{within}/" if within else None,
        headers=_headers(header),
        wrap_ttl=wrap_ttl or _duration("WRAP_TTL"),
        timeout=(_duration("CLIENT_TIMEOUT") or Duration.of_seconds(int(TIMEOUT_S))) / 10**9,
        retries=_retries(),
        rate_interval_s=_rate_interval_s(),
        redirects=not (disable_redirects or switched_on("DISABLE_REDIRECTS")),
        server_name=tls_server_name or environment("TLS_SERVER_NAME"),
        proxies=_proxies(target),
        dry_run=DryRun.CURL if output_curl_string else DryRun.POLICY if output_policy else None,
        interactive=not non_interactive,
    )


def _address(told: str) -> str:
    target = told.rstrip("/")
    try:
        url = urlsplit(target)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        raise LocalError(f'The address "{target}" must look like https://host:port.') from None
    if url.scheme == "unix" and url.path:
        return target
    if not usable or url.path:
        raise LocalError(f'The address "{target}" must look like https://host:port.')
    return target


def _path(told: str | None) -> Path | None:
    return Path(told) if told else None


def _headers(told: tuple[tuple[str, str], ...]) -> dict[str, str]:
    for name, value in told:
        if name.lower().startswith(("x-vault-", "x-strongroom-request-id")):
            raise LocalError(f"The header {name} is not the user's to set.")
        if not name or any(ord(each) < 32 for each in name + value):
            raise LocalError(f"{name!r} is no header.")
    return dict(told)


def _duration(name: str) -> Duration | None:
    told = environment(name)
    try:
        return parse_duration(told) if told else None
    except InvalidDuration as e:
        raise LocalError(f"{name} in the environment is not usable: {e}") from e


def _retries() -> int:
    """The documented default of 2 is the libraries'; the command line tries once unless it is told otherwise."""
    told = environment("MAX_RETRIES") or "0"
    if not told.isdigit() or int(told) > RETRIES_MAX:
        raise LocalError(
            f"MAX_RETRIES in the environment must be a number from 0 to {RETRIES_MAX}, not {told!r}."
        )
    return int(told)


def _rate_interval_s() -> float:
    """RATE_LIMIT is "requests a second[:burst]"; without a burst every request waits for its turn."""
    told = environment("RATE_LIMIT")
    if not told:
        return 0.0
    rate, _, burst = told.partition(":")
    try:
        interval = 1 / float(rate)
        bursts = bool(burst) and int(burst) > 1
    except (ValueError, ZeroDivisionError):
        raise LocalError(f"RATE_LIMIT in the environment must look like 10 or 10:20, not {told!r}.") from None
    return 0.0 if bursts else interval


def _proxies(target: str) -> Proxies | None:
    """The named proxy, else what the usual variables say; a loopback address is reached directly."""
    if named := environment("PROXY_ADDR") or environment("HTTP_PROXY"):
        return {"http": named, "https": named}
    if not any(os.environ.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")):
        return None
    from urllib.request import getproxies, proxy_bypass  # here, because it is slow to load and seldom wanted

    host = urlsplit(target).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    return {scheme: url for scheme, url in getproxies().items() if scheme in ("http", "https")}
