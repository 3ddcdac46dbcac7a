"""`strongroom server`: settings in, node.process.run, exit code out."""

import contextlib
import functools
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from node.cli.environment import environment
from node.cli.flags import Command, flag, switch
from node.cli.output import LocalError
from node.config import ConfigError, Settings, dev_settings, load

DEV_ADDRESS = "127.0.0.1:8200"


@click.command(cls=Command)
@flag(
    "config",
    click.Path(path_type=Path),
    multiple=True,
    variable="configs",
    help="A file or a directory; repeatable.",
)
@flag("log-level", help="debug, info, warning or error.")
@switch("dev", help="One node that forgets everything: to try things out.")
@flag("dev-root-token-id", help="The root token of the -dev server.  [STRONGROOM_DEV_ROOT_TOKEN_ID]")
@flag("dev-listen-address", help=f"host:port.  [STRONGROOM_DEV_LISTEN_ADDRESS; default: {DEV_ADDRESS}]")
@switch("dev-no-store-token", help="Do not write ~/.vault-token.")
@switch("dev-tls", help="Serve TLS, with an authority and a certificate made for the occasion.")
@flag("dev-tls-cert-dir", help="Where to leave them.  [default: a directory that goes with the server]")
@flag("dev-tls-san", multiple=True, help="A name or address for the certificate; repeatable.")
def server(configs: tuple[Path, ...], log_level: str | None, dev: bool, **said: Any) -> int:
    """Run a node until it is told to stop (SIGTERM).

    \b
    strongroom server -config /etc/strongroom/strongroom.hcl
    strongroom server -dev -dev-root-token-id root
    """
    dev = dev or said["dev_tls"]
    if not dev and any(said.values()):
        raise click.UsageError("The -dev-... flags need -dev.")
    if dev and configs:
        raise click.UsageError("-dev takes no -config.")
    try:
        if dev:
            return _dev(log_level, **said)
        read = functools.partial(load, configs, environ=os.environ, overrides={"log_level": log_level})
        return _serve(read(), read_settings=read)
    except ConfigError as e:
        raise LocalError(str(e)) from e


def _dev(
    log_level: str | None,
    *,
    dev_root_token_id: str | None,
    dev_listen_address: str | None,
    dev_no_store_token: bool,
    dev_tls: bool,
    dev_tls_cert_dir: str | None,
    dev_tls_san: tuple[str, ...],
) -> int:
    with contextlib.ExitStack() as stack:
        if dev_tls_cert_dir:
            directory = Path(dev_tls_cert_dir).absolute()
            if not directory.is_dir():
                raise LocalError(f"{directory} is no directory.")
        else:
            temporary = tempfile.TemporaryDirectory(prefix="strongroom-dev-", ignore_cleanup_errors=True)
            directory = Path(stack.enter_context(temporary))
        settings = dev_settings(
            data_dir=directory,
            listen=dev_listen_address or environment("DEV_LISTEN_ADDRESS") or DEV_ADDRESS,
            tls=dev_tls,
            tls_names=dev_tls_san,
            environ=os.environ,
            overrides={"log_level": log_level},
        )
        token = dev_root_token_id or environment("DEV_ROOT_TOKEN_ID")
        return _serve(settings, dev_root_token=token, store_token=not dev_no_store_token)


def _serve(settings: Settings, **options: Any) -> int:
    gc.disable()  # what is imported is no garbage: looking for some takes a tenth of the time to start
    from node.process import run

    gc.enable()

    return run(settings, **options)
